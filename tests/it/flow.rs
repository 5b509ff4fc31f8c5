//! How fast what goes out: budgets, pauses, relays that are away, and tenants beside each other.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aftercall::sink::Script;

use crate::support::{PLAIN, Relay, Site, TenantFile, call, server_on, until};

#[test]
fn a_relay_that_cannot_be_reached_is_left_alone_and_no_delivery_is_used_up() {
    // A port where nobody listens yet.
    let place = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = place.local_addr().unwrap().port();
    drop(place);
    let relay = format!("{PLAIN}\nconnections = 1");
    let retry = "first = \"20ms\"\nlongest = \"20ms\"";
    let site = Site::new(port, &TenantFile { relay: &relay, retry, ..TenantFile::default() });
    for number in 1..=20 {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
    let serve = site.serve();
    until("the gate to close", || site.serve_log().contains("the relay cannot be used").then_some(()));
    until("all sessions", || (site.states().len() == 20).then_some(()));
    let attempts: u32 = site.deliveries().iter().map(|row| row.attempts).sum();
    assert!(attempts <= 8, "{attempts} attempts at a relay that is not there");
    let arrived = Arc::new(Mutex::new(0));
    let counting = Arc::clone(&arrived);
    server_on(TcpListener::bind(("127.0.0.1", port)).unwrap(), move |mut talk, _| {
        talk.say("220 ready\r\n");
        while let Some(line) = talk.hear() {
            match line.split_whitespace().next().unwrap_or_default() {
                "DATA" => {
                    talk.say("354 go on\r\n");
                    talk.hear_message();
                    *counting.lock().unwrap() += 1;
                    talk.say("250 2.0.0 queued\r\n");
                }
                _ => _ = talk.say("250 ok\r\n"),
            }
        }
    });
    until("everything to be accepted", || {
        site.states().iter().all(|state| *state == "accepted").then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    assert_eq!(*arrived.lock().unwrap(), 20);
    assert!(site.serve_log().contains("the relay is back"));
}

#[test]
fn a_paused_tenant_takes_sessions_and_sends_none_until_it_is_resumed() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    assert!(site.run(&["outbox", "pause"]).with_code(0).out.contains("acme is paused"));
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(75);
    assert_eq!((site.states(), relay.received().len()), (vec!["pending"], 0));
    assert!(site.run(&["outbox"]).with_code(0).err.contains("acme is paused"));
    site.run(&["outbox", "resume", "--tenant", "acme"]).with_code(0);
    site.run(&["send", &file]).with_code(0);
    relay.only();
}

#[test]
fn no_more_is_sent_in_a_minute_than_the_tenant_allows() {
    let relay = Relay::start();
    let site =
        Site::new(relay.port(), &TenantFile { retry: "[rate]\nper_minute = 3", ..TenantFile::default() });
    let files: Vec<String> = (1..=8)
        .map(|number| site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0)))
        .collect();
    assert_eq!(files.len(), 8);
    let serve = site.serve();
    until("the first three", || (relay.received().len() >= 3).then_some(()));
    until("all sessions", || (site.states().len() == 8).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let minutes =
        1 + site.deliveries().iter().filter(|row| row.state.as_str() == "accepted").count().div_ceil(3);
    assert!(relay.received().len() <= 3 * minutes.min(2), "{}", relay.received().len());
}

#[test]
fn a_tenant_with_a_dead_relay_and_one_that_floods_leave_a_third_alone() {
    let (busy, own) =
        (Relay::with(Script { delay: Duration::from_millis(60), ..Script::default() }), Relay::start());
    let site = Site::new(busy.port(), &TenantFile::default());
    // Nobody listens on the port of discard.
    site.tenant_at("dead", 9, &TenantFile::default());
    site.tenant_at("small", own.port(), &TenantFile::default());
    for number in 1..=400 {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
        site.session(&format!("inbox/dead/call-{number}.json"), &call(number, "7", 0));
    }
    let serve = site.serve();
    until("the flood", || (busy.received().len() > 20).then_some(()));
    site.session("inbox/small/call-1.json", &call(1, "7", 0));
    until("the small tenant's mail", || (own.received().len() == 1).then_some(()));
    assert!(busy.received().len() < 400, "it did not wait for the flood to end");
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn mails_go_out_while_a_flood_of_files_is_taken() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    for number in 1..=2000 {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
    site.run(&["send", "--all", site.path("inbox/acme").to_str().unwrap()]).with_code(0);
    let rows = site.deliveries();
    let last_taken = rows.iter().map(|row| row.created_at).max().unwrap();
    let out = rows.iter().filter(|row| row.changed_at <= last_taken).count();
    assert_eq!(rows.len(), 2000);
    assert!(out > 1000, "{out} of 2000 mails were out when the last file was taken");
}
