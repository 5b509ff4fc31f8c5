//! Each shipped recipe against a CRM that answers as its documentation says, and as it should not.
//!
//! A file of `tests/recipes` has the tenant's side (`login`, `values`, `ticket`, `url`), and every request with its
//! answer, in order. `again` marks the requests that only an attempt after another makes; `not_found` the answer to
//! such a look when there is nothing yet. `found` marks those that are left out when the look finds the delivery.

use std::path::Path;
use std::sync::{Arc, Mutex};

use aftercall::clock::Clock;
use aftercall::config::Config;
use aftercall::config::recipe::SHIPPED;
use aftercall::config::record::Record;
use aftercall::config::tenant::Overrides;
use aftercall::outbox::Outcome;
use aftercall::plan::{Mail, Target};
use aftercall::record::client::{Attached, Client};
use aftercall::record::note::Note;
use aftercall::template::Rendered;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::http::{Answer, Crm, Heard};
use crate::support::{Site, TenantFile};

/// A file that would break whatever pastes texts together.
const FILE: &[u8] = b"{\n \"id\": 7, \"x\": \"\\u0000 \xc3\xa4 \\\" --\"}\n\n";
const TEXT: &str = "Result: \"done\"\n<b>Status: Closed</b> & {{again}}\\n #comment\u{e4}";
const EXTERNAL_ID: &str = "c7-external0id0of0call";
/// The same as a UUID, made of its SHA-256.
const UUID: &str = "d1ac1e38-b1ab-8a95-ac8f-e522c980f3ac";
const SECRET: &str = "secret-4711-abcdef";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The tenant's `[record.login]`; SECRET is a file with the secret.
    login: String,
    /// More of `[record]`.
    #[serde(default)]
    record: String,
    profile: String,
    ticket: String,
    /// The ticket's URL, from which the id may be taken; BASE is the CRM's.
    #[serde(default)]
    url: String,
    exchanges: Vec<Exchange>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    step: String,
    request: String,
    /// A header and its value.
    #[serde(default)]
    header: Vec<String>,
    /// The whole body as JSON; texts in capitals stand for parts of the delivery.
    json: Option<String>,
    /// The whole body is the file.
    #[serde(default)]
    file: bool,
    /// What a form holds, in order.
    #[serde(default)]
    form: Vec<String>,
    status: u16,
    #[serde(default)]
    answer: String,
    /// Made only when there was an attempt before.
    #[serde(default)]
    again: bool,
    /// What a look answers when it finds the delivery.
    found: Option<String>,
    /// Left out when the look finds the delivery.
    #[serde(default)]
    unless_found: bool,
    /// Left out when the ticket's URL has the id.
    #[serde(default)]
    unless_url: bool,
    #[serde(default)]
    effect: bool,
    /// Statuses that mean something else here: `"409 deferred"`.
    #[serde(default)]
    means: Vec<String>,
}

fn cases() -> Vec<(&'static str, Case)> {
    let read = |(name, _): (&'static str, &str)| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recipes/{name}.toml"));
        let source = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, toml::from_str(&source).unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    SHIPPED.into_iter().map(read).collect()
}

/// The configuration of a case at a CRM, made of files as a tenant's is.
fn record(name: &str, case: &Case, base: &str) -> Record {
    let record = format!(
        "recipe = \"{name}\"\nbase = \"{base}\"\nallow_private = true\nanswer_timeout = \"2s\"\n{}\n[record.login]\n{}\n",
        case.record,
        case.login.replace("SECRET", "{ file = \"secret\" }").replace("BASE", base),
    );
    let profile = format!(
        "name = \"{}\"{}",
        case.profile,
        if case.profile == "rt" { "\nvalues = { rtname = \"rt\" }" } else { "" }
    );
    let site = Site::new(1, &TenantFile { profile: &profile, record: &record, ..TenantFile::default() });
    site.write("config/secret", SECRET.as_bytes());
    let config = Config::load(&site.path("config"), None, &Overrides::default());
    let config = config.unwrap_or_else(|problems| panic!("{name}: {problems}"));
    config.tenants["acme"].record.clone().unwrap()
}

fn note(record: &Record, case: &Case, with_url: bool, base: &str) -> Note {
    let mail = Mail {
        ticket: Some(case.ticket.clone()),
        ticket_url: with_url.then(|| case.url.replace("BASE", base)),
        target: Target::Record,
        due: Timestamp::UNIX_EPOCH,
        waits_for: "",
        hold: None,
        supersedes: vec![],
        thread: vec![],
        follows: None,
    };
    let rendered = Rendered {
        language: "en".to_owned(),
        subject: "Call 7: Finished".to_owned(),
        text: TEXT.to_owned(),
        html: String::new(),
    };
    let (id, session, file) = (EXTERNAL_ID.to_owned(), "call-7".to_owned(), "call-7.json".to_owned());
    Note::new(record, id, session, file, &mail, &rendered, Timestamp::UNIX_EPOCH)
}

/// Puts the delivery's parts in place of the names in capitals.
fn filled(text: &str) -> String {
    let html = TEXT.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    text.replace("NOTE_HTML", &html.replace('\n', "<br>\n"))
        .replace("NOTE", TEXT)
        .replace("EXTERNAL", EXTERNAL_ID)
        .replace("UUID", UUID)
        .replace("FILE64", &STANDARD.encode(FILE))
        .replace("FILE", std::str::from_utf8(FILE).unwrap())
        .replace("SECRET", SECRET)
}

fn filled_tree(tree: Value) -> Value {
    match tree {
        Value::String(text) => filled(&text).into(),
        Value::Array(items) => items.into_iter().map(filled_tree).collect(),
        Value::Object(entries) => {
            Value::Object(entries.into_iter().map(|(key, value)| (key, filled_tree(value))).collect())
        }
        other => other,
    }
}

#[track_caller]
fn assert_request(name: &str, heard: &Heard, exchange: &Exchange) {
    let what = format!("{name} at {}", exchange.step);
    assert_eq!(format!("{} {}", heard.method, heard.path), filled(&exchange.request), "{what}");
    for header in &exchange.header {
        let (field, value) = header.split_once(": ").unwrap();
        assert_eq!(heard.header(field), filled(value), "{what}");
    }
    assert!(heard.header("user-agent").starts_with("aftercall/"), "{what}");
    match &exchange.json {
        Some(json) => {
            let wanted =
                filled_tree(serde_json::from_str(json).unwrap_or_else(|error| panic!("{what}: {error}")));
            assert_eq!(heard.json(), wanted, "{what}");
        }
        None if exchange.file => assert_eq!(heard.body, FILE, "{what}"),
        None if exchange.form.is_empty() => assert_eq!(heard.text(), "", "{what}"),
        None => assert_form(&what, heard, &exchange.form),
    }
}

#[track_caller]
fn assert_form(what: &str, heard: &Heard, parts: &[String]) {
    let boundary = heard.header("content-type").strip_prefix("multipart/form-data; boundary=").unwrap();
    let text = heard.text();
    let found: Vec<&str> = text.split(&format!("--{boundary}")).collect();
    assert_eq!(
        (found.len(), found[0], found[found.len() - 1]),
        (parts.len() + 2, "", "--\r\n"),
        "{what}: {text}"
    );
    for (found, part) in found[1..].iter().zip(parts) {
        let (head, value) = part.split_once(" = ").unwrap();
        let (found_head, found_value) = found.split_once("\r\n\r\n").unwrap();
        let found_head = found_head.replace("\r\nContent-Disposition: form-data; ", "").replace("\r\n", "; ");
        assert_eq!(
            (found_head, found_value.strip_suffix("\r\n").unwrap()),
            (filled(head), &*filled(value)),
            "{what}"
        );
    }
}

/// Which requests an attempt makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    with_url: bool,
    again: bool,
    found: bool,
}

impl Attempt {
    const FIRST: Self = Self { with_url: false, again: false, found: false };

    fn makes(self, exchange: &Exchange) -> bool {
        !(exchange.again && !self.again
            || exchange.unless_found && self.found
            || exchange.unless_url && self.with_url)
    }
}

/// What the CRM of a case does now.
struct State {
    attempt: Attempt,
    /// Answers the request with this number, from 1, in place of the CRM.
    instead: Option<(usize, Answer)>,
    requests: usize,
}

/// A case with its CRM and our client; the CRM hears many attempts, one after another.
struct Stage {
    case: Case,
    crm: Crm,
    record: Record,
    client: Client,
    state: Arc<Mutex<State>>,
}

impl Stage {
    fn new(name: &'static str, case: Case) -> Self {
        let state = State { attempt: Attempt::FIRST, instead: None, requests: 0 };
        let state = Arc::new(Mutex::new(state));
        let (script, known) = (case.exchanges.clone(), Arc::clone(&state));
        let crm = Crm::start(move |heard, _| {
            if heard.path == "/token" {
                return Answer::json(200, r#"{"access_token":"token-1","expires_in":3600}"#);
            }
            let mut state = known.lock().unwrap();
            state.requests += 1;
            match &state.instead {
                Some((at, answer)) if *at == state.requests => answer.clone(),
                _ => documented(&script, heard, state.attempt),
            }
        });
        let record = record(name, &case, &crm.base());
        let client = Client::new(&record, Clock::fixed(Timestamp::UNIX_EPOCH));
        let client = client.unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { case, crm, record, client, state }
    }

    /// Plays an attempt, and gives what came of it and the requests of the recipe.
    async fn play(&self, attempt: Attempt, instead: Option<(usize, Answer)>) -> (Attached, Vec<Heard>) {
        *self.state.lock().unwrap() = State { attempt, instead, requests: 0 };
        let note = note(&self.record, &self.case, attempt.with_url, &self.crm.base());
        let attached = self.client.attach(&note, FILE, "Acme", attempt.again).await;
        let heard = self.crm.take().into_iter().filter(|heard| heard.path != "/token");
        (attached, heard.collect())
    }

    fn wanted(&self, attempt: Attempt) -> Vec<&Exchange> {
        self.case.exchanges.iter().filter(|exchange| attempt.makes(exchange)).collect()
    }
}

/// The answer that is documented for a request.
fn documented(script: &[Exchange], heard: &Heard, attempt: Attempt) -> Answer {
    let line = format!("{} {}", heard.method, heard.path);
    let fits = |exchange: &&Exchange| {
        let body = exchange.json.as_ref().map(|json| filled_tree(serde_json::from_str(json).unwrap()));
        filled(&exchange.request) == line
            && body.is_none_or(|body| serde_json::from_slice::<Value>(&heard.body).ok() == Some(body))
    };
    match script.iter().find(fits) {
        Some(Exchange { found: Some(found), status: 400, .. }) if attempt.found => {
            Answer::json(200, &filled(found))
        }
        Some(Exchange { found: Some(found), status, .. }) if attempt.found => {
            Answer::json(*status, &filled(found))
        }
        Some(exchange) => Answer::json(exchange.status, &exchange.answer),
        None => Answer::json(599, &format!("nobody said what to answer to {line}")),
    }
}

#[tokio::test]
async fn each_recipe_asks_as_its_crm_wants_it() {
    let attempts = [
        Attempt::FIRST,
        Attempt { with_url: true, ..Attempt::FIRST },
        Attempt { again: true, ..Attempt::FIRST },
        Attempt { again: true, found: true, ..Attempt::FIRST },
    ];
    for (name, case) in cases() {
        let stage = Stage::new(name, case);
        for attempt in attempts {
            let (attached, heard) = stage.play(attempt, None).await;
            let (report, wanted) = (attached.report, stage.wanted(attempt));
            for (heard, exchange) in heard.iter().zip(&wanted) {
                assert_request(name, heard, exchange);
            }
            assert_eq!(heard.len(), wanted.len(), "{name} {attempt:?}: {heard:?} {report:?}");
            assert_eq!(report.outcome, Outcome::Accepted, "{name} {attempt:?}: {report:?}");
            assert_eq!(report.relay, format!("127.0.0.1:{}", stage.crm.port));
            let bodies = |heard: Vec<Heard>| heard.into_iter().map(|heard| heard.body).collect::<Vec<_>>();
            let again = stage.play(attempt, None).await.1;
            assert_eq!(bodies(again), bodies(heard), "{name}: a retry sends the same octets");
        }
    }
}

/// The answer, what it means, and its status; `lost` is what a lost answer means.
fn faults(lost: Outcome, has_tokens: bool) -> Vec<(Answer, Outcome, Option<u16>)> {
    let say = |status, field: &str| Answer::Say(status, field.to_owned(), String::new());
    let refused_login = if has_tokens { Outcome::Accepted } else { Outcome::Deferred };
    let mut faults = vec![
        (say(302, "location: /elsewhere\r\n"), Outcome::Deferred, Some(302)),
        (say(429, "retry-after: 7\r\n"), Outcome::Deferred, Some(429)),
        (Answer::Lose, lost, None),
    ];
    let statuses = [
        (400, Outcome::Rejected),
        (401, refused_login),
        (403, Outcome::Rejected),
        (404, Outcome::Rejected),
        (408, Outcome::Deferred),
        (409, Outcome::Rejected),
        (413, Outcome::Rejected),
        (500, Outcome::Deferred),
        (502, lost),
        (503, Outcome::Deferred),
    ];
    faults.extend(statuses.map(|(status, outcome)| (Answer::status(status), outcome, Some(status))));
    faults
}

/// What a status means at this step of this recipe, where it is not what it usually means.
fn meant(exchange: &Exchange, code: Option<u16>) -> Option<Outcome> {
    exchange.means.iter().find_map(|means| match means.split_once(' ') {
        Some((status, "deferred")) if code == status.parse().ok() => Some(Outcome::Deferred),
        Some((_, "deferred")) => None,
        _ => panic!("{means}"),
    })
}

#[tokio::test]
async fn each_recipe_meets_each_fault_at_each_step() {
    let wait = SignedDuration::from_secs(7);
    for (name, case) in cases() {
        let stage = Stage::new(name, case);
        let has_tokens = stage.case.login.contains("token_url");
        for (at, exchange) in stage.wanted(Attempt::FIRST).into_iter().enumerate() {
            let lost = if exchange.effect { Outcome::Uncertain } else { Outcome::Deferred };
            for (answer, usual, code) in faults(lost, has_tokens) {
                let outcome = meant(exchange, code).unwrap_or(usual);
                let (attached, heard) = stage.play(Attempt::FIRST, Some((at + 1, answer))).await;
                let report = attached.report;
                let what = format!("{name} at {} told {code:?}: {report:?}", exchange.step);
                assert_eq!(report.outcome, outcome, "{what}");
                assert!(attached.connected && !format!("{report:?}").contains(SECRET), "{what}");
                if outcome == Outcome::Accepted {
                    continue;
                }
                assert_eq!((&*report.stage, report.code), (&*exchange.step, code), "{what}");
                assert_eq!(report.retry_after, (code == Some(429)).then_some(wait), "{what}");
                assert_eq!(heard.len(), at + 1, "nothing follows: {what}");
                let words = match code {
                    Some(401) => "refuses the login",
                    Some(404) => "the ticket is not there",
                    Some(413) => "the size",
                    Some(302) => "look at record.base",
                    _ => "",
                };
                assert!(report.text.contains(words), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_number_that_no_ticket_has_is_refused_and_a_page_for_people_is_no_answer() {
    let mut looked = 0;
    for (name, case) in cases() {
        let stage = Stage::new(name, case);
        let lookups = stage.record.recipe.steps.iter().filter(|step| step.lookup);
        for lookup in lookups.map(|step| step.name.clone()) {
            let wanted = stage.wanted(Attempt::FIRST);
            let at = wanted.iter().position(|exchange| exchange.step == lookup).unwrap();
            let table = [
                (Answer::json(200, "{}"), Outcome::Rejected, "the ticket is not there"),
                (Answer::json(200, "[]"), Outcome::Rejected, "the ticket is not there"),
                (Answer::json(204, ""), Outcome::Rejected, "the ticket is not there"),
                (Answer::json(200, "<html>Log in</html>"), Outcome::Deferred, "the answer is not JSON"),
                (Answer::Break(200, "{".to_owned()), Outcome::Deferred, "error"),
            ];
            for (answer, outcome, words) in table {
                let (attached, heard) = stage.play(Attempt::FIRST, Some((at + 1, answer.clone()))).await;
                let report = attached.report;
                assert_eq!((report.outcome, heard.len()), (outcome, at + 1), "{name} {answer:?}: {report:?}");
                assert!(report.text.contains(words), "{name} {answer:?}: {}", report.text);
                looked += 1;
            }
        }
    }
    assert!(looked >= 35, "{looked}");
}

#[tokio::test]
async fn an_error_within_an_answer_of_success_is_an_error() {
    let znuny =
        |code: &str| format!(r#"{{"Error":{{"ErrorCode":"{code}","ErrorMessage":"{code}: as told"}}}}"#);
    let odoo = |name: &str| {
        format!(r#"{{"error":{{"code":200,"data":{{"name":"{name}","message":"{name}: as told"}}}}}}"#)
    };
    let table = [
        ("znuny", znuny("TicketUpdate.InvalidParameter"), Outcome::Rejected),
        ("znuny", znuny("TicketUpdate.AuthFail"), Outcome::Deferred),
        ("odoo", odoo("odoo.exceptions.MissingError"), Outcome::Rejected),
        ("odoo", odoo("odoo.exceptions.AccessDenied"), Outcome::Deferred),
    ];
    for (name, body, outcome) in table {
        let case = cases().into_iter().find(|(known, _)| *known == name).unwrap().1;
        let stage = Stage::new(name, case);
        for at in 0..stage.wanted(Attempt::FIRST).len() {
            let answer = Answer::json(200, &body);
            let (attached, heard) = stage.play(Attempt::FIRST, Some((at + 1, answer))).await;
            let report = attached.report;
            assert_eq!((report.outcome, heard.len()), (outcome, at + 1), "{name} at {at}: {report:?}");
            assert!(report.text.contains("as told"), "{}", report.text);
        }
        // On a page of failure the status decides.
        let last = stage.wanted(Attempt::FIRST).len();
        let (attached, _) = stage.play(Attempt::FIRST, Some((last, Answer::json(500, &body)))).await;
        assert_eq!(attached.report.outcome, Outcome::Deferred, "{name}: {:?}", attached.report);
    }
}

#[tokio::test]
async fn each_recipe_has_a_probe_that_changes_nothing() {
    for (name, case) in cases() {
        let crm = Crm::start(|heard, _| match heard.path.as_str() {
            "/token" => Answer::json(200, r#"{"access_token":"token-1","expires_in":3600}"#),
            _ => Answer::json(200, r#"{"result":2}"#),
        });
        let record = record(name, &case, &crm.base());
        let probed = Client::new(&record, Clock::default()).unwrap().probe().await;
        assert!(probed.is_ok(), "{name}: {probed:?}");
        let heard: Vec<Heard> = crm.heard().into_iter().filter(|heard| heard.path != "/token").collect();
        assert_eq!(heard.len(), 1, "{name}");
        assert!(heard[0].method == "GET" || !heard[0].text().contains(EXTERNAL_ID), "{name}");
    }
}
