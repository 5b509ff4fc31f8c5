//! SIGTERM in the midst of a mail, and clocks that are not what they should be.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::Value;

use crate::shim::shim;
use crate::support::{Relay, Site, Talk, TenantFile, call, server, until};

/// Where the relay of a test stops and waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// Before it reads the message.
    Message,
    /// Before it answers the final dot.
    Answer,
}

/// Takes one mail, and at the pause says so and waits until it may go on.
fn take_slowly(mut talk: Talk, pause: Pause, told: &Sender<()>, may_go_on: &Receiver<()>) -> Option<usize> {
    let wait = || {
        told.send(()).unwrap();
        may_go_on.recv().unwrap();
    };
    talk.say("220 slow\r\n");
    while let Some(line) = talk.hear() {
        if line != "DATA" {
            talk.say("250 ok\r\n");
            continue;
        }
        talk.say("354 go ahead\r\n");
        if pause == Pause::Message {
            wait();
        }
        talk.hear_message()?;
        if pause == Pause::Answer {
            wait();
        }
        talk.say("250 2.0.0 taken\r\n");
    }
    None
}

/// Asks `serve` to end while a mail is at that pause.
fn end_at(pause: Pause) {
    let ((told, at_pause), (go_on, may_go_on)) = (channel(), channel());
    let waiting = Mutex::new((told, may_go_on));
    let port = server(move |talk, _| {
        let waiting = waiting.lock().unwrap();
        take_slowly(talk, pause, &waiting.0, &waiting.1);
    });
    let site = Site::new(port, &TenantFile { relay: ONE_AT_A_TIME, ..TenantFile::default() });
    let mut session = call(1, "7", 0);
    // More than the buffers of a connection hold.
    session["future_field"] = "x".repeat(2_000_000).into();
    site.session("inbox/acme/call-1.json", &session);
    site.session("inbox/acme/call-2.json", &call(2, "7", 0));
    let serve = site.serve();
    at_pause.recv().unwrap();
    serve.ask_to_end();
    until("the signal", || site.serve_log().contains("stopping").then_some(()));
    go_on.send(()).unwrap();
    assert_eq!(serve.ended().code(), Some(0));
    let mut states = site.states();
    states.sort_unstable();
    // The other one had not begun, or its attempt was not made.
    assert!(states == ["accepted", "pending"] || states == ["accepted", "deferred"], "{states:?}");
    let sent = site.deliveries().into_iter().find(|row| row.state.as_str() == "accepted").unwrap();
    let attempts = site.attempts(&sent.session.to_string());
    assert_eq!(attempts.len(), 1);
    let told = (attempts[0].outcome.as_deref(), attempts[0].answer.as_deref());
    assert_eq!(told, (Some("accepted"), Some("2.0.0 taken")));
}

/// A relay that the second mail has to wait for.
const ONE_AT_A_TIME: &str = "host = \"127.0.0.1\"\ntls = \"none\"\nconnections = 1";

#[test]
fn a_message_on_the_wire_is_finished_before_serve_ends() {
    end_at(Pause::Message);
}

#[test]
fn an_answer_that_is_slow_is_waited_for_before_serve_ends() {
    end_at(Pause::Answer);
}

#[test]
fn a_half_written_file_is_waited_for_where_our_clock_is_behind() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let offset = site.write("offset", b"-20").display().to_string();
    let whole = call(1, "7", 0).to_string();
    let serve = site.serve_with(&[("LD_PRELOAD", shim()), ("CLOCK_OFFSET_FILE", &offset)]);
    site.write("inbox/acme/call-1.json", &whole.as_bytes()[..whole.len() / 2]);
    // Seen in the same looks at the folder as the half one.
    site.session("inbox/acme/call-2.json", &call(2, "7", 0));
    until("the next file", || (relay.received().len() == 1).then_some(()));
    site.write("inbox/acme/call-1.json", whole.as_bytes());
    until("the whole file", || (relay.received().len() == 2).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let listed = site.run(&["log", "quarantine", "--format", "json"]).with_code(0).json();
    assert_eq!(listed, serde_json::json!([]));
}

#[test]
fn a_clock_that_is_set_back_loses_no_mail_that_waits_and_stops_nothing() {
    let relay = Relay::start();
    let file = TenantFile {
        recipient: "address = \"once-then-ok@crm.example.com\"",
        retry: "first = \"10m\"",
        ..TenantFile::default()
    };
    let site = Site::new(relay.port(), &file);
    let offset = site.write("offset", b"0").display().to_string();
    // Renamed into its place, so that nobody reads half of it.
    let set = |seconds: &str| {
        std::fs::rename(site.write("next", seconds.as_bytes()), site.path("offset")).unwrap();
    };
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let serve = site.serve_with(&[("LD_PRELOAD", shim()), ("CLOCK_OFFSET_FILE", &offset)]);
    until("the refusal", || (site.states() == ["deferred"]).then_some(()));
    set("-3600");
    // Work that comes while the clock is back is done; its own refusal is past.
    site.session("inbox/acme/call-2.json", &call(2, "7", 0));
    until("the second mail", || (site.states() == ["deferred", "accepted"]).then_some(()));
    let rows = site.deliveries();
    assert!(rows[1].changed_at < rows[0].changed_at, "the clock is back");
    set("0");
    assert_eq!(site.states(), ["deferred", "accepted"], "it waits for its time");
    set("1200");
    until("the first mail", || (site.states() == ["accepted", "accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    assert_eq!(relay.received().len(), 2);
    for session in ["call-1", "call-2"] {
        for record in site.story(session).records {
            let content: Value = serde_json::from_str(&record.content.unwrap()).unwrap();
            assert_ne!(content["outcome"], "uncertain");
        }
    }
}
