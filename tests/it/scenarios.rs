//! Each file of `tests/scenarios` is a behaviour; its name is the sentence. A file says how a tenant and its relay
//! differ from the usual, which sessions there are, what is run, and what must stand in the log in the end:
//!
//! ```toml
//! run = ["send"]                            # also "send --all", "serve"; serve runs until all is settled
//! unheard = ["AUTH"]                        # commands that the relay must never hear
//! connections = 1                           # how many the relay must have seen; any when left out
//! expect = """
//! send: exit 75
//! call-1: deferred
//!   1 rcpt 450 deferred: 4.2.1 mailbox…
//! """
//!
//! [tenant.retry]                            # sections and keys of a tenant's file
//! first = "1m"
//!
//! [sink]                                    # the fields of `Script`, see `SinkLines`
//! keywords = ["PIPELINING"]
//!
//! [[sink.rule]]                             # a `Rule`, see `RuleLines`
//! at = "rcpt"
//! say = "450 4.2.1 mailbox busy"
//!
//! [[session]]
//! number = 1
//! ticket = "7"                              # also the recipient's local part, so its script at the relay
//! ```
//!
//! A line of `expect` that ends in `…` stands for any with this beginning, and `…` alone at the end for all that
//! may follow. An attempt has its number, stage, code,
//! outcome and answer. Below the deliveries stands what the relay read, by recipient.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aftercall::outbox::State;
use aftercall::sink::Script;
use aftercall::sink::rules::{Act, Doing, Rule, Step};
use aftercall::store::Story;
use jiff::SignedDuration;
use rcgen::{CertificateParams, KeyPair};
use serde::Deserialize;
use toml::Table;

use crate::smtp::{Authority, acceptor, authority};
use crate::support::{Relay, Site, TenantFile, call, until};

/// How many scenarios run at a time: they mostly wait.
const AT_A_TIME: usize = 4;
/// What the file that a tenant's `password` names holds.
const PASSWORD: &str = "correct-horse-7291";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    run: Vec<String>,
    expect: String,
    #[serde(default)]
    unheard: Vec<String>,
    connections: Option<usize>,
    /// Which session is which does not matter: they are all named the same, in the order of their lines.
    #[serde(default)]
    alike: bool,
    #[serde(default)]
    tenant: Table,
    #[serde(default)]
    sink: SinkLines,
    session: Vec<SessionLines>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SinkLines {
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
struct SessionLines {
    number: u64,
    #[serde(default)]
    ticket: Option<String>,
    #[serde(default)]
    minute: u32,
    /// Octets that make the file, and so the mail, longer.
    #[serde(default)]
    padding: usize,
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
    fn script(self) -> (Script, Option<Authority>) {
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

/// The lines of one section: the usual ones, and the scenario's in their place.
fn section(tenant: &Table, name: &str, usual: &str) -> String {
    let mut section: Table = usual.parse().unwrap();
    if let Some(given) = tenant.get(name) {
        section.extend(given.as_table().unwrap().clone());
    }
    section.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

/// A site for the scenario's tenant. It tries again at once, over one connection at a time.
fn site(tenant: &Table, port: u16) -> Site {
    let known = ["profile", "relay", "retry"];
    let unknown: Vec<_> = tenant.keys().filter(|key| !known.contains(&key.as_str())).collect();
    assert!(unknown.is_empty(), "a scenario has no tenant lines {unknown:?}");
    let relay = section(tenant, "relay", "host = \"127.0.0.1\"\ntls = \"none\"\nconnections = 1");
    let retry = section(tenant, "retry", "first = \"20ms\"\nlongest = \"20ms\"");
    let profile = section(tenant, "profile", "name = \"generic\"");
    let file = TenantFile {
        recipient: "pattern = \"{ticket}@crm.example.com\"",
        relay: &relay,
        retry: &retry,
        profile: &profile,
        ..TenantFile::default()
    };
    let site = Site::new(port, &file);
    site.write("config/password", PASSWORD.as_bytes());
    site
}

/// Writes the sessions and gives their files.
fn write_sessions(site: &Site, sessions: &[SessionLines]) -> Vec<String> {
    let write = |(at, lines): (usize, &SessionLines)| {
        let mut session = call(lines.number, lines.ticket.as_deref().unwrap_or("7"), lines.minute);
        if lines.padding > 0 {
            session["padding"] = "x".repeat(lines.padding).into();
        }
        site.session(&format!("inbox/acme/{at}-call-{}.json", lines.number), &session)
    };
    sessions.iter().enumerate().map(write).collect()
}

/// The stories of the sessions, by number.
fn stories(site: &Site, sessions: &[SessionLines]) -> Vec<Story> {
    let mut numbers: Vec<u64> = sessions.iter().map(|lines| lines.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let store = site.store();
    let story = |number| store.stories(format!("call-{number}").parse().unwrap(), Some("acme")).unwrap();
    numbers.into_iter().flat_map(story).collect()
}

/// Whether every file was taken and nothing goes on by itself.
fn is_settled(site: &Site, sessions: &[SessionLines]) -> bool {
    let stories = stories(site, sessions);
    let taken: usize = stories.iter().map(|story| story.revisions.len()).sum();
    let goes_on = |state| matches!(state, State::Leased | State::Sending);
    let mut rows = stories.iter().flat_map(|story| &story.deliveries);
    taken == sessions.len() && rows.all(|row| row.due.is_none() && !goes_on(row.state))
}

/// Runs one command and says how it ended.
fn run(site: &Site, command: &str, sessions: &[SessionLines], files: &[String]) -> String {
    let code = match command {
        "serve" => {
            let serve = site.serve();
            until("everything to settle", || is_settled(site, sessions).then_some(()));
            let code = serve.terminate();
            let log = site.serve_log();
            assert!(!log.contains("panicked"), "{log}");
            code
        }
        "send" | "send --all" => {
            let mut arguments = vec!["send"];
            if command == "send" {
                arguments.extend(files.iter().map(String::as_str));
            } else {
                arguments.extend(["--all", "inbox/acme"]);
            }
            let ended = site.run(&arguments);
            assert!(ended.code != 2 && !ended.err.contains("panicked"), "{}", ended.err);
            ended.code
        }
        other => panic!("{other:?} is not run by scenarios"),
    };
    format!("{command}: exit {code}")
}

/// One block of lines for each delivery, then one line for each mail that the relay read.
fn snapshot(stories: &[Story], relay: &Relay, alike: bool) -> Vec<String> {
    let mut blocks = Vec::new();
    for story in stories {
        for row in &story.deliveries {
            let name = if alike { "call".to_owned() } else { story.session.to_string() };
            let mut block = vec![format!("{name}: {}", row.state)];
            for attempt in story.attempts.iter().filter(|attempt| attempt.delivery == row.id) {
                let word = |word: &Option<String>| word.clone().unwrap_or("-".to_owned());
                let code = attempt.code.map_or("-".to_owned(), |code| code.to_string());
                let (stage, outcome) = (word(&attempt.stage), word(&attempt.outcome));
                let answer = word(&attempt.answer);
                block.push(format!("  {} {stage} {code} {outcome}: {answer}", attempt.number));
            }
            blocks.push(block);
        }
    }
    if alike {
        blocks.sort();
    }
    let received = relay.received();
    let mail = |(at, mail): (usize, &aftercall::sink::Received)| {
        let told = if mail.acknowledged { "acknowledged" } else { "not acknowledged" };
        let again = received[..at].iter().any(|earlier| earlier.message == mail.message);
        format!("{} {told}{}", mail.recipient, if again { ", the same bytes again" } else { "" })
    };
    let mut mails: Vec<String> = received.iter().enumerate().map(mail).collect();
    mails.sort_by_key(|line| line.split(' ').next().unwrap_or_default().to_owned());
    blocks.into_iter().flatten().chain(mails).collect()
}

fn fits(expected: &str, found: &str) -> bool {
    expected.strip_suffix('…').map_or(expected == found, |start| found.starts_with(start))
}

/// What differs, between the lines that are the same at the beginning and at the end; none where nothing does.
fn difference(expected: &[String], found: &[String]) -> Option<String> {
    let same = |(expected, found): (&String, &String)| fits(expected, found);
    let before = expected.iter().zip(found).take_while(|pair| same(*pair)).count();
    let (expected_rest, found_rest) = (&expected[before..], &found[before..]);
    if expected_rest.is_empty() && found_rest.is_empty() {
        return None;
    }
    let pairs = expected_rest.iter().rev().zip(found_rest.iter().rev());
    let after = pairs.take_while(|pair| same(*pair)).count();
    let mark = |mark: &str, lines: &[String]| -> String {
        lines.iter().map(|line| format!("{mark} {line}\n")).collect()
    };
    Some(
        mark(" ", &found[..before])
            + &mark("-", &expected_rest[..expected_rest.len() - after])
            + &mark("+", &found_rest[..found_rest.len() - after])
            + &mark(" ", &found_rest[found_rest.len() - after..]),
    )
}

/// Plays one scenario and says what came out other than expected; nothing where all is well.
fn play(path: &Path) -> String {
    let scenario: Scenario = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (script, authority) = scenario.sink.script();
    let relay = Relay::with(script);
    let site = site(&scenario.tenant, relay.port());
    if let Some(authority) = authority {
        site.write("config/ca.pem", authority.pem.as_bytes());
    }
    let files = write_sessions(&site, &scenario.session);
    let mut found: Vec<String> =
        scenario.run.iter().map(|command| run(&site, command, &scenario.session, &files)).collect();
    found.extend(snapshot(&stories(&site, &scenario.session), &relay, scenario.alike));
    let mut expected: Vec<String> = scenario.expect.lines().map(str::to_owned).collect();
    if expected.pop_if(|last| last == "…").is_some() {
        found.truncate(expected.len());
    }
    let mut wrong = difference(&expected, &found).unwrap_or_default();
    let conversations = relay.sink.conversations();
    for line in conversations.iter().flatten().filter_map(|line| line.strip_prefix("C: ")) {
        if scenario.unheard.iter().any(|verb| line.starts_with(verb)) {
            wrong.push_str(&format!("the relay heard {line}\n"));
        }
    }
    if scenario.connections.is_some_and(|count| count != conversations.len()) {
        wrong.push_str(&format!("{} connections\n", conversations.len()));
    }
    if !wrong.is_empty() {
        wrong.push_str(&format!("{conversations:#?}\n"));
    }
    wrong
}

#[test]
fn every_scenario_ends_as_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.iter().all(|path| path.extension().is_some_and(|ending| ending == "toml")), "{paths:?}");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::SeqCst)) {
            let told = catch_unwind(AssertUnwindSafe(|| play(path))).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                text.unwrap_or_else(|| "it panicked".to_owned())
            });
            if !told.is_empty() {
                let name = path.file_stem().unwrap().to_string_lossy();
                wrong.lock().unwrap().push(format!("{name}\n{told}"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(work);
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {} scenarios:\n{}", wrong.len(), paths.len(), wrong.join("\n"));
}
