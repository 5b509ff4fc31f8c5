//! A real Postfix that goes away and comes back while `serve` runs.

use std::collections::{BTreeMap, BTreeSet};

use super::postfix::{CRM, Postfix};
use crate::support::{Site, TenantFile, call, header, parsed, until};

/// A tenant that tries again soon, so that no test waits for long.
fn impatient() -> TenantFile<'static> {
    TenantFile { retry: "first = \"1s\"\nlongest = \"1s\"", ..TenantFile::default() }
}

/// Puts sessions into the watched folder.
fn put(site: &Site, numbers: std::ops::Range<u64>) {
    for number in numbers {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
}

fn wait_until_accepted(site: &Site, count: usize) {
    until(&format!("{count} accepted mails"), || {
        let states = site.states();
        (states.iter().filter(|state| **state == "accepted").count() >= count).then_some(())
    });
}

/// How often Postfix took each mail, by its Message-ID without brackets, once so many are there.
///
/// That is not how many files the mailbox has: a Postfix that is stopped between the file and the queue's entry
/// delivers out of its queue again. The trace line tells, which each mail gets once, when it is taken.
fn taken(postfix: &Postfix, count: usize) -> BTreeMap<String, usize> {
    until(&format!("{count} mails for {CRM}"), || {
        let mut lines = BTreeMap::<String, BTreeSet<String>>::new();
        for mail in postfix.stored(CRM) {
            let mail = parsed(&mail);
            let id = header(&mail, "Message-ID");
            let id = id.trim_matches(['<', '>']).to_owned();
            lines.entry(id).or_default().insert(header(&mail, "Received"));
        }
        let copies = lines.into_iter().map(|(id, lines)| (id, lines.len()));
        (copies.len() >= count).then(|| copies.collect())
    })
}

#[test]
fn a_restart_of_postfix_between_two_sessions_costs_no_attempt() {
    let mut postfix = Postfix::start("plain login");
    let site = postfix.site(&impatient());
    let serve = site.serve();
    put(&site, 1..2);
    wait_until_accepted(&site, 1);
    // The connection that is kept for the next mail dies with Postfix.
    postfix.stop();
    postfix.run();
    put(&site, 2..3);
    wait_until_accepted(&site, 2);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(taken(&postfix, 2).into_values().collect::<Vec<_>>(), [1, 1]);
    for session in ["call-1", "call-2"] {
        assert_eq!(site.attempts(session).len(), 1, "{:?}", site.attempts(session));
    }
}

#[test]
fn what_a_stopped_postfix_missed_arrives_once_it_runs_again_and_none_twice_without_a_mark() {
    const COUNT: u64 = 60;
    let mut postfix = Postfix::start("plain login");
    let site = postfix.site(&impatient());
    let serve = site.serve();
    put(&site, 0..COUNT / 2);
    wait_until_accepted(&site, 5);
    postfix.stop();
    put(&site, COUNT / 2..COUNT);
    until("the sessions, and that the relay is found away", || {
        let newest = format!("call-{}", COUNT - 1);
        let is_there = site.deliveries().iter().any(|row| row.session.to_string() == newest);
        (is_there && site.serve_log().contains("the relay cannot be used")).then_some(())
    });
    postfix.run();
    wait_until_accepted(&site, usize::try_from(COUNT).unwrap());
    assert_eq!(serve.terminate(), 0);
    let copies = taken(&postfix, usize::try_from(COUNT).unwrap());
    for delivery in site.deliveries() {
        let attempts = site.attempts(&delivery.session.to_string());
        let uncertain =
            attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("uncertain")).count();
        let arrived = copies.get(&delivery.message_id.unwrap()).copied().unwrap_or(0);
        assert!((1..=1 + uncertain).contains(&arrived), "{arrived} times: {attempts:?}");
    }
}
