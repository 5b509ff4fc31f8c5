//! What a file of `tests/scenarios` may hold.

use std::time::Duration;

use aftercall::sink::Script;
use aftercall::sink::rules::{Act, Doing, Rule, Step};
use jiff::SignedDuration;
use rcgen::{CertificateParams, KeyPair};
use serde::Deserialize;
use toml::Table;

use crate::smtp::{Authority, acceptor, authority};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) run: Vec<String>,
    pub(super) expect: String,
    #[serde(default)]
    pub(super) unheard: Vec<String>,
    pub(super) connections: Option<usize>,
    /// Which session is which does not matter: they are all named the same, in the order of their lines.
    #[serde(default)]
    pub(super) alike: bool,
    #[serde(default)]
    pub(super) tenant: Table,
    #[serde(default)]
    pub(super) sink: SinkLines,
    pub(super) session: Vec<SessionLines>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SinkLines {
    keywords: Vec<String>,
    /// The certificate: `trusted`, `other-name`, `other-authority` or `self-signed`.
    tls: String,
    implicit: bool,
    injected: String,
    login: Option<(String, String)>,
    bearer: Option<(String, String)>,
    messages_per_connection: usize,
    connections_at_a_time: usize,
    window: u32,
    rule: Vec<RuleLines>,
}

/// At most one of `say` to `silence`; without any of them the usual is done after the wait.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RuleLines {
    at: String,
    to: String,
    after: usize,
    times: usize,
    /// A length of time, such as `300ms`.
    wait: String,
    /// Lines, which are ended here; the others are octets as they stand.
    say: Option<Vec<String>>,
    raw: Option<String>,
    repeat: Option<String>,
    close: Option<String>,
    reset: Option<String>,
    silence: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionLines {
    pub(super) number: u64,
    #[serde(default)]
    pub(super) ticket: Option<String>,
    #[serde(default)]
    pub(super) minute: u32,
    /// Octets that make the file, and so the mail, longer.
    #[serde(default)]
    pub(super) padding: usize,
}

impl RuleLines {
    fn rule(self) -> Rule {
        let steps = [
            ("greeting", Step::Greeting),
            ("hello", Step::Hello),
            ("starttls", Step::StartTls),
            ("auth", Step::Auth),
            ("mail", Step::Mail),
            ("rcpt", Step::Rcpt),
            ("data", Step::Data),
            ("body", Step::Body),
            ("dot", Step::Dot),
            ("rset", Step::Reset),
            ("quit", Step::Quit),
        ];
        let step = steps.into_iter().find(|(word, _)| *word == self.at);
        let (_, at) = step.unwrap_or_else(|| panic!("there is no step {:?}", self.at));
        let lines = self.say.map(|lines| lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
        let acts = [
            lines.or(self.raw).map(|octets| Act::Say(octets.into_bytes())),
            self.repeat.map(|octets| Act::Repeat(octets.into_bytes())),
            self.close.map(|octets| Act::Close(octets.into_bytes())),
            self.reset.map(|octets| Act::Reset(octets.into_bytes())),
            self.silence.then_some(Act::Silence),
        ];
        let mut acts = acts.into_iter().flatten();
        let act = acts.next().unwrap_or_default();
        assert_eq!(acts.next(), None, "one act a rule");
        let wait = if self.wait.is_empty() { SignedDuration::ZERO } else { self.wait.parse().unwrap() };
        let wait = Duration::try_from(wait).unwrap();
        let doing = Doing { act, wait };
        Rule { at, role: self.to, after: self.after, times: self.times, doing }
    }
}

impl SinkLines {
    /// The script, and the authority that the tenant can trust.
    pub(super) fn script(self) -> (Script, Option<Authority>) {
        let name = if self.tls == "other-name" { "relay.example.com" } else { "127.0.0.1" };
        let vouched = (!self.tls.is_empty()).then(|| authority(name));
        let tls = vouched.as_ref().map(|vouched| match self.tls.as_str() {
            "trusted" | "other-name" => vouched.acceptor.clone(),
            "other-authority" => authority(name).acceptor,
            "self-signed" => {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new([name.to_owned()]).unwrap();
                acceptor(&params.self_signed(&key).unwrap(), &key)
            }
            other => panic!("there is no certificate {other:?}"),
        });
        let script = Script {
            keywords: self.keywords,
            tls,
            implicit: self.implicit,
            injected: self.injected,
            login: self.login,
            bearer: self.bearer,
            messages_per_connection: self.messages_per_connection,
            connections_at_a_time: self.connections_at_a_time,
            window: self.window,
            rules: self.rule.into_iter().map(RuleLines::rule).collect(),
            ..Script::default()
        };
        (script, vouched)
    }
}
