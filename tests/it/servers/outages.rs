//! A real Postfix that goes away and comes back while `serve` runs.

use std::collections::BTreeMap;

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

/// How often each mail arrived, by its Message-ID without brackets.
fn arrivals(postfix: &Postfix, count: usize) -> BTreeMap<String, usize> {
    let mut copies = BTreeMap::new();
    for mail in postfix.wait_for(CRM, count) {
        let id = header(&parsed(&mail), "Message-ID");
        *copies.entry(id.trim_matches(['<', '>']).to_owned()).or_default() += 1;
    }
    copies
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
    assert_eq!(arrivals(&postfix, 2).into_values().collect::<Vec<_>>(), [1, 1]);
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
    until("attempts that find no relay", || {
        // Not of each: a relay that is away is left alone after a few.
        let (newest, rows) = (format!("call-{}", COUNT - 1), site.deliveries());
        let is_there = rows.iter().any(|row| row.session.to_string() == newest);
        (is_there && rows.iter().any(|row| row.state.as_str() == "deferred")).then_some(())
    });
    postfix.run();
    wait_until_accepted(&site, usize::try_from(COUNT).unwrap());
    assert_eq!(serve.terminate(), 0);
    let copies = arrivals(&postfix, usize::try_from(COUNT).unwrap());
    for delivery in site.deliveries() {
        let attempts = site.attempts(&delivery.session.to_string());
        let uncertain =
            attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("uncertain")).count();
        let arrived = copies.get(&delivery.message_id.unwrap()).copied().unwrap_or(0);
        assert!((1..=1 + uncertain).contains(&arrived), "{arrived} times: {attempts:?}");
    }
}
