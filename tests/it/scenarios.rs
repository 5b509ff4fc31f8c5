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
//! [sink]                                    # the fields of `Script`, see `file::SinkLines`
//! keywords = ["PIPELINING"]
//!
//! [[sink.rule]]                             # a `Rule`, see `file::RuleLines`
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

mod file;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aftercall::outbox::State;
use aftercall::sink::Received;
use aftercall::store::Story;
use file::{Scenario, SessionLines};
use toml::Table;

use crate::support::{Relay, Site, TenantFile, call, until};

/// How many scenarios run at a time: they mostly wait.
const AT_A_TIME: usize = 4;
/// What the file that a tenant's `password` names holds.
const PASSWORD: &str = "correct-horse-7291";

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
    let mail = |(at, mail): (usize, &Received)| {
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
