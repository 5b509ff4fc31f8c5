//! The program dies at every step between a file and its logged delivery, and is started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use aftercall::config::StorePlace;
use aftercall::crash::{STEPS, Step};
use aftercall::ids::Digest;
use aftercall::log::FIRST;
use aftercall::outbox::State;
use aftercall::sink::Script;
use aftercall::store::{DeliveryRow, Filter, Store};
use serde_json::Value;

use crate::servers::postgres::{ask, database};
use crate::support::{Relay, Site, TenantFile, call, header, parsed, until};

/// How many sessions there are.
pub(crate) const SESSIONS: usize = 3;
/// How many programs die at a time on each engine.
const AT_ONCE: usize = 2;
/// The signal by which a process ends itself at once.
pub(crate) const SIGABRT: i32 = 6;

/// What `serve` says once it listens to signals and looks at its folders.
pub(crate) const SERVES: &str = "serving store";
/// What it says of each mail that a relay took.
pub(crate) const TOOK: &str = "the relay accepted";

/// Puts sessions into the watched folder, old enough to be taken at the first look.
pub(crate) fn put_sessions(site: &Site, numbers: impl Iterator<Item = usize>) {
    for number in numbers {
        let name = format!("inbox/acme/call-{number}.json");
        let path = site.session(&name, &call(number as u64, "7", 0));
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    }
}

/// How many attempts of each delivery the log of `acme` calls uncertain. Asserts that its chain is unbroken.
pub(crate) fn uncertain_by_log(store: &Store) -> BTreeMap<i64, usize> {
    let (mut previous, mut found) = (FIRST, BTreeMap::new());
    for (row, number) in store.chain("acme").unwrap().into_iter().zip(1..) {
        assert_eq!(row.number, number);
        assert_eq!(row.hash, Digest::of_parts(&[&previous.0, row.record.as_bytes()]), "record {number}");
        previous = row.hash;
        let record: Value = serde_json::from_str(&row.record).unwrap();
        let content: Value = serde_json::from_str(&row.content.unwrap()).unwrap();
        if content["outcome"] == "uncertain" {
            *found.entry(record["delivery"].as_i64().unwrap()).or_default() += 1;
        }
    }
    found
}

/// Asserts that there are so many deliveries, all accepted; that each one's mail arrived, at most once more than its
/// log calls attempts uncertain, and always the same. Gives the attempts that the log calls uncertain.
#[track_caller]
pub(crate) fn assert_all_arrived(relay: &Relay, store: &Store, sessions: usize) -> BTreeMap<i64, usize> {
    let rows = store.deliveries(&Filter::default()).unwrap();
    let states: Vec<State> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, vec![State::Accepted; sessions]);
    let uncertain = uncertain_by_log(store);
    let received = relay.received();
    for row in &rows {
        let is_of_row =
            |mail: &&[u8]| header(&parsed(mail), "Message-ID").contains(row.message_id.as_deref().unwrap());
        let copies: Vec<&[u8]> = received.iter().map(|mail| &mail.message[..]).filter(is_of_row).collect();
        let most = 1 + uncertain.get(&row.id.0).unwrap_or(&0);
        assert!((1..=most).contains(&copies.len()), "{}: {} copies of {most}", row.session, copies.len());
        assert!(copies.iter().all(|copy| *copy == copies[0]), "{}: the copies differ", row.session);
    }
    uncertain
}

pub(crate) fn in_state(rows: &[DeliveryRow], state: State) -> Vec<i64> {
    rows.iter().filter(|row| row.state == state).map(|row| row.id.0).collect()
}

/// Lets `serve` die at a step, starts it again, and looks at what came of the sessions.
fn die_and_go_on(step: Step, url: Option<&str>) {
    let relay = Relay::with(Script { keywords: vec!["PIPELINING".to_owned()], ..Script::default() });
    let site = Site::new(relay.port(), &TenantFile::default());
    put_sessions(&site, 1..=SESSIONS);
    let file = site.path("config/aftercall.sqlite").display().to_string();
    let place = url.unwrap_or(&file);
    let at = ("AFTERCALL_STORE", place);
    let ended = site.serve_with(&[at, ("AFTERCALL_CRASH_AT", step.as_str())]).ended();
    assert_eq!(ended.signal(), Some(SIGABRT), "it did not die there");

    let store = Store::open(&StorePlace::parse(place)).unwrap();
    let left = store.deliveries(&Filter::default()).unwrap();
    let (sending, accepted) = (in_state(&left, State::Sending), in_state(&left, State::Accepted));
    if let Some(url) = url {
        // The dead are known by their silence; this is as long as others wait.
        ask(url, "UPDATE instances SET seen_at = seen_at - 30001");
    }
    if step == Step::MessageSent {
        // It dies once more while it takes over, which ends the attempts that were under way.
        let taking_over = ("AFTERCALL_CRASH_AT", Step::FinishWritten.as_str());
        let ended = site.serve_with(&[at, taking_over]).ended();
        assert_eq!(ended.signal(), Some(SIGABRT), "it did not die while it took over");
        assert_eq!(site.serve_log().matches(SERVES).count(), 1);
    }
    let said = |words: &str| site.serve_log().matches(words).count();
    let (served, took) = (said(SERVES), said(TOOK));
    let serve = site.serve_with(&[at]);
    until("the rest to be accepted", || {
        (said(SERVES) > served && said(TOOK) >= took + SESSIONS - accepted.len()).then_some(())
    });
    assert_eq!(serve.terminate(), 0);

    let uncertain = assert_all_arrived(&relay, &store, SESSIONS);
    assert_eq!(uncertain.keys().copied().collect::<Vec<_>>(), sending, "what was under way is uncertain");
    // From the commit of a revision to its note the sender may already run beside.
    let may_be_under_way = step >= Step::Begun || (Step::Accepted..=Step::Noted).contains(&step);
    assert!(uncertain.is_empty() || may_be_under_way, "{uncertain:?}");
    if step >= Step::Begun && step < Step::Finished {
        assert!(!uncertain.is_empty(), "an attempt had begun");
    }
}

/// Dies at every one of these steps, a few at a time.
pub(crate) fn die_everywhere(steps: impl Iterator<Item = Step> + Send, die: impl Fn(Step) + Sync) {
    let steps = Mutex::new(steps);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(step) = steps.lock().unwrap().next() else { return };
                    let died = || die(step);
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(died)).is_err() {
                        wrong.lock().unwrap().push(step.as_str());
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "wrong after a death at {wrong:?}");
}

fn of_mail() -> impl Iterator<Item = Step> + Send {
    // What comes behind is the way of mail that comes back; `servers::mailboxes` and `reconcile` die there.
    STEPS.iter().copied().filter(|step| !step.is_of_inbound() && !step.is_of_record())
}

#[test]
fn after_a_death_at_any_step_every_mail_arrives_and_none_twice_without_a_mark() {
    die_everywhere(of_mail(), |step| die_and_go_on(step, None));
}

#[test]
fn after_a_death_at_any_step_another_instance_takes_over() {
    die_everywhere(of_mail(), |step| die_and_go_on(step, Some(&database())));
}

#[test]
fn a_database_that_cuts_the_connection_ends_serve_and_loses_and_doubles_nothing() {
    const COUNT: usize = 120;
    let relay = Relay::with(Script { keywords: vec!["PIPELINING".to_owned()], ..Script::default() });
    let site = Site::new(relay.port(), &TenantFile::default());
    let url = database();
    let at = ("AFTERCALL_STORE", &*url);
    let took = || site.serve_log().matches(TOOK).count();
    for round in 0..3 {
        put_sessions(&site, round * COUNT / 3 + 1..=(round + 1) * COUNT / 3);
        let (before, serve) = (took(), site.serve_with(&[at]));
        until("a few mails to be accepted", || (took() >= before + 3).then_some(()));
        ask(
            &url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid()",
        );
        assert_eq!(serve.ended().code(), Some(1));
        ask(&url, "UPDATE instances SET seen_at = seen_at - 30001");
    }
    let (said, password) = (site.serve_log(), url.split([':', '@']).nth(2).unwrap());
    assert!(said.contains("the store postgres://127.0.0.1") && !said.contains(password), "{said}");
    let store = Store::open(&StorePlace::parse(&url)).unwrap();
    let serve = site.serve_with(&[at]);
    until("the rest to be accepted", || {
        let rows = store.deliveries(&Filter::default()).unwrap();
        (in_state(&rows, State::Accepted).len() == COUNT).then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    assert_all_arrived(&relay, &store, COUNT);
}
