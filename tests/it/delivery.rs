//! From a session file to the relay's answer, through `aftercall send`.

use std::collections::BTreeMap;
use std::net::TcpListener;

use aftercall::sink::Script;
use serde_json::json;

use crate::support::{PLAIN, Relay, Site, TenantFile, attachment, call, header, parsed, sample, until};

/// A tenant that tries again at once and always writes to `recipient`.
fn eager<'t>(recipient: &'t str) -> TenantFile<'t> {
    TenantFile { recipient, retry: "first = \"20ms\"\nlongest = \"20ms\"", ..TenantFile::default() }
}

#[test]
fn an_accepted_mail_has_the_token_the_language_and_the_file_byte_for_byte() {
    let table = [
        ("call-50119.json", "[#10495] Anruf 50119: Beendet", "Ergebnis", "call-50119.json"),
        ("chat-7312.json", "[#10523] Chat 7312: Beendet", "Ergebnis", "chat-7312.json"),
        ("call-50112.json", "[#10482] Call 50112: Finished", "Outcome", "call-50112.json"),
        ("hostile.json", "[#10666] Call 66666:", "Outcome", "call-66666.json"),
    ];
    for (file, subject, heading, name) in table {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        let path = sample(file);
        let ended = site.run(&["send", path.to_str().unwrap()]).with_code(0);
        assert!(ended.out.contains("accepted"), "{}", ended.out);
        let received = relay.only();
        assert_eq!(received.recipient, "support@crm.example.com");
        assert!(received.from.starts_with("bridge+") && received.from.ends_with("@acme.example.com"));
        let message = parsed(&received.message);
        assert!(message.subject().unwrap().starts_with(subject), "{file}: {:?}", message.subject());
        assert!(message.body_text(0).unwrap().contains(heading), "{file}");
        assert_eq!(attachment(&message), (name.to_owned(), std::fs::read(path).unwrap()));
        let reply_to = header(&message, "Reply-To");
        assert!(reply_to.contains("<bridge+") && !reply_to.contains(&received.from), "{reply_to}");
        assert_eq!(message.parts.iter().filter(|part| part.is_encoding_problem).count(), 0, "{file}");
        let rows = site.deliveries();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].message_id.as_deref(), message.message_id());
    }
}

#[test]
fn each_answer_of_the_relay_has_its_state_its_exit_code_and_its_words() {
    let table = [
        ("temp", "deferred", 75, &["rcpt"][..], "450", "mailbox busy"),
        ("perm", "rejected", 1, &["rcpt"], "550", "no such mailbox"),
        ("421", "deferred", 75, &["rcpt"], "421", "closing"),
    ];
    for (role, state, code, stages, number, words) in table {
        let relay = Relay::start();
        let recipient = format!("address = \"{role}@crm.example.com\"");
        let tenant = TenantFile { recipient: &recipient, ..TenantFile::default() };
        let site = Site::new(relay.port(), &tenant);
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["send", &file]).with_code(code);
        assert!(ended.out.contains(state) && ended.out.contains(words), "{role}: {}", ended.out);
        let row = site.deliveries().remove(0);
        assert_eq!((row.state.as_str(), row.attempts), (state, 1), "{role}");
        assert!(row.reason.contains(number) && row.reason.contains(words), "{role}: {}", row.reason);
        assert_eq!(row.due.is_some(), state == "deferred", "{role}");
        let attempt = site.attempts("call-1").remove(0);
        assert!(stages.contains(&attempt.stage.as_deref().unwrap()), "{role}: {attempt:?}");
        assert_eq!(attempt.code.map(|code| code.to_string()).as_deref(), Some(number), "{role}");
        assert!(relay.received().is_empty(), "{role}");
    }
}

#[test]
fn a_greylisted_mail_is_accepted_at_the_second_attempt() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &eager("address = \"once-then-ok@crm.example.com\""));
    site.session("drop/call-1.json", &call(1, "7", 0));
    let ended = site.run(&["send", "--all", "drop"]).with_code(0);
    assert!(ended.out.contains("1 accepted"), "{}", ended.out);
    let outcomes: Vec<_> = site.attempts("call-1").into_iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Some("deferred".to_owned()), Some("accepted".to_owned())]);
    relay.only();
}

#[test]
fn a_relay_that_goes_before_the_final_dot_has_not_taken_the_mail_or_nobody_knows() {
    // A small message fits into the socket's buffer, so the dot may be out before the break shows.
    for file in ["call-50127.json", "hostile.json"] {
        let relay = Relay::start();
        let catch_all = "then = \"catch-all\"\naddress = \"drop-before-dot@crm.example.com\"";
        let tenant = TenantFile {
            recipient: "address = \"drop-before-dot@crm.example.com\"",
            missing_ticket: catch_all,
            ..TenantFile::default()
        };
        let site = Site::new(relay.port(), &tenant);
        site.run(&["send", sample(file).to_str().unwrap()]).with_code(75);
        let row = site.deliveries().remove(0);
        assert!(["deferred", "uncertain"].contains(&row.state.as_str()), "{}: {}", row.state, row.reason);
        assert!(row.due.is_some());
        assert!(relay.received().is_empty(), "it never read the message");
    }
}

#[test]
fn a_mail_that_may_have_arrived_is_sent_again_with_the_same_bytes_where_the_tenant_wants_it() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &eager("address = \"drop-after-dot@crm.example.com\""));
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let serve = site.serve();
    until("the second copy", || (relay.received().len() >= 2).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let received = relay.received();
    assert!(received.iter().all(|mail| mail.message == received[0].message && !mail.acknowledged));
    let attempts = site.attempts("call-1");
    assert!(attempts.len() >= 2);
    for attempt in attempts {
        assert_eq!((attempt.outcome.as_deref(), attempt.code), (Some("uncertain"), None));
    }
    assert_eq!(site.deliveries().len(), 1);
}

#[test]
fn a_mail_that_may_have_arrived_is_held_where_the_tenant_wants_that() {
    let relay = Relay::start();
    let tenant = TenantFile {
        recipient: "address = \"drop-after-dot@crm.example.com\"",
        retry: "first = \"20ms\"\non_uncertain = \"hold\"",
        ..TenantFile::default()
    };
    let site = Site::new(relay.port(), &tenant);
    site.session("drop/call-1.json", &call(1, "7", 0));
    site.run(&["send", "--all", "drop"]).with_code(0);
    let row = site.deliveries().remove(0);
    assert_eq!((row.state.as_str(), row.attempts, row.due), ("held", 1, None));
    assert!(row.reason.contains("uncertain"), "{}", row.reason);
    assert_eq!(site.attempts("call-1")[0].outcome.as_deref(), Some("uncertain"));
    relay.only();
}

#[test]
fn without_a_relay_a_mail_waits() {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let site = Site::new(port, &TenantFile::default());
    let file = site.session("call-1.json", &call(1, "7", 0));
    let ended = site.run(&["send", &file]).with_code(75);
    assert!(ended.out.contains("deferred"), "{}", ended.out);
    let attempt = site.attempts("call-1").remove(0);
    assert_eq!((attempt.stage.as_deref(), attempt.code), (Some("connect"), None));
}

#[test]
fn the_same_file_twice_is_one_mail() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let file = site.session("call-1.json", &call(1, "7", 0));
    let copy = site.session("copy/other-name.json", &call(1, "7", 0));
    for file in [&file, &file, &copy] {
        let ended = site.run(&["send", file]).with_code(0);
        assert!(ended.out.contains("accepted"), "{}", ended.out);
    }
    relay.only();
    let story = site.story("call-1");
    assert_eq!((story.revisions.len(), story.attempts.len()), (1, 1));
}

#[test]
fn an_older_revision_after_a_newer_one_is_stored_and_not_sent() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    for minute in [20, 10] {
        let file = site.session(&format!("{minute}.json"), &call(1, "7", minute));
        site.run(&["send", &file]).with_code(0);
    }
    assert!(parsed(&relay.only().message).body_text(0).unwrap().contains("Code of minute 20"));
    assert_eq!(site.story("call-1").revisions.len(), 2);
    assert_eq!(site.states(), ["accepted"]);
}

#[test]
fn a_newer_revision_follows_up_in_the_thread_and_tells_what_changed() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    for minute in [10, 20, 30] {
        let file = site.session(&format!("{minute}.json"), &call(1, "7", minute));
        site.run(&["send", &file]).with_code(0);
    }
    let received = relay.received();
    assert_eq!(received.len(), 3);
    let mails: Vec<_> = received.iter().map(|mail| parsed(&mail.message)).collect();
    let ids: Vec<String> = mails.iter().map(|mail| format!("<{}>", mail.message_id().unwrap())).collect();
    assert_eq!(header(&mails[0], "In-Reply-To"), "");
    assert_eq!(header(&mails[1], "In-Reply-To"), ids[0]);
    assert_eq!(header(&mails[2], "In-Reply-To"), ids[1]);
    assert_eq!(header(&mails[1], "References"), ids[0]);
    assert_eq!(header(&mails[2], "References"), format!("{} {}", ids[0], ids[1]));
    assert!(mails.iter().all(|mail| mail.subject().unwrap().starts_with("[#7] ")));
    let first = mails[0].body_text(0).unwrap();
    assert!(!first.contains("Changed since"), "{first}");
    let second = mails[1].body_text(0).unwrap();
    let (_, changes) = second.split_once("Changed since the last update").unwrap();
    let (changes, _) = changes.split_once("* Outcome").unwrap();
    assert!(changes.contains("Code of minute 20 (was: Code of minute 10)"), "{changes}");
    assert!(mails[1].body_html(0).unwrap().contains("Code of minute 10"), "HTML tells it as well");
}

#[test]
fn a_newer_revision_that_shows_nothing_new_sends_nothing() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let mut session = call(1, "7", 10);
    let first = site.session("first.json", &session);
    session["updated_at"] = "2026-01-10T10:30:00.000Z".into();
    session["future_field"] = json!({ "nobody": "shows this" });
    let second = site.session("second.json", &session);
    site.run(&["send", &first, &second]).with_code(0);
    relay.only();
    assert_eq!(site.story("call-1").revisions.len(), 2);
}

#[test]
fn a_ticket_that_changes_after_an_update_went_out_is_held_for_a_person() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    for (ticket, minute) in [("7", 10), ("8", 20)] {
        let file = site.session(&format!("{minute}.json"), &call(1, ticket, minute));
        site.run(&["send", &file]).with_code(0);
    }
    relay.only();
    let rows = site.deliveries();
    assert_eq!(site.states(), ["accepted", "held"]);
    assert!(rows[1].reason.contains("ticket 7"), "{}", rows[1].reason);
}

#[test]
fn a_session_without_a_ticket_is_held_until_a_revision_brings_one() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let without = site.session("without.json", &call(1, "", 10));
    let ended = site.run(&["send", &without]).with_code(0);
    assert!(ended.out.contains("held") && ended.out.contains("no ticket id"), "{}", ended.out);
    assert!(relay.received().is_empty());
    let with = site.session("with.json", &call(1, "7", 20));
    site.run(&["send", &with]).with_code(0);
    let received = relay.only();
    let mail = parsed(&received.message);
    assert!(mail.subject().unwrap().starts_with("[#7] "));
    assert_eq!(header(&mail, "In-Reply-To"), "", "nothing came before it");
    assert_eq!(site.states(), ["superseded", "accepted"]);
}

#[test]
fn a_session_without_a_ticket_goes_to_the_catch_all_where_there_is_one() {
    let relay = Relay::start();
    let missing_ticket = "then = \"catch-all\"\naddress = \"new@crm.example.com\"";
    let site = Site::new(relay.port(), &TenantFile { missing_ticket, ..TenantFile::default() });
    let file = site.session("call-1.json", &call(1, "", 10));
    site.run(&["send", &file]).with_code(0);
    let received = relay.only();
    assert_eq!(received.recipient, "new@crm.example.com");
    assert_eq!(parsed(&received.message).subject(), Some("Call 1: Finished"), "no token");
}

#[test]
fn a_recipient_made_from_the_ticket_stands_in_envelope_and_header() {
    let relay = Relay::start();
    let recipient = "pattern = \"support+id{ticket}@crm.example.com\"";
    let site = Site::new(relay.port(), &TenantFile { recipient, ..TenantFile::default() });
    let file = site.session("call-1.json", &call(1, "7", 10));
    site.run(&["send", &file]).with_code(0);
    let received = relay.only();
    assert_eq!(received.recipient, "support+id7@crm.example.com");
    assert_eq!(header(&parsed(&received.message), "To"), "support+id7@crm.example.com");
}

/// Sends six sessions over one lane and gives how often each subject arrived.
fn six_over_one_lane(script: Script) -> (Relay, Site, BTreeMap<String, usize>) {
    let relay = Relay::with(script);
    let lane = format!("{PLAIN}\nconnections = 1");
    let site =
        Site::new(relay.port(), &TenantFile { relay: &lane, ..eager("address = \"a@crm.example.com\"") });
    for number in 1..=6 {
        site.session(&format!("drop/call-{number}.json"), &call(number, "7", 0));
    }
    site.run(&["send", "--all", "drop"]).with_code(0);
    let mut arrived = BTreeMap::new();
    for mail in relay.received() {
        *arrived.entry(parsed(&mail.message).subject().unwrap().to_owned()).or_default() += 1;
    }
    (relay, site, arrived)
}

#[test]
fn one_connection_carries_many_mails() {
    let (relay, _, arrived) = six_over_one_lane(Script::default());
    assert_eq!(arrived.len(), 6);
    assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
    assert_eq!(relay.sink.connections(), 1);
}

#[test]
fn a_relay_that_closes_after_each_mail_loses_and_doubles_nothing() {
    let (relay, site, arrived) =
        six_over_one_lane(Script { messages_per_connection: 1, ..Script::default() });
    assert_eq!(arrived.len(), 6);
    assert!(arrived.values().all(|count| *count == 1), "{arrived:?}");
    assert_eq!(relay.sink.connections(), 6);
    for row in site.deliveries() {
        assert_eq!((row.state.as_str(), row.attempts), ("accepted", 1), "{}", row.reason);
    }
}

#[test]
fn a_refused_mail_does_not_cost_the_others_their_connection() {
    let relay = Relay::start();
    let lane = format!("{PLAIN}\nconnections = 1");
    let tenant = TenantFile {
        relay: &lane,
        recipient: "pattern = \"{ticket}@crm.example.com\"",
        ..TenantFile::default()
    };
    let site = Site::new(relay.port(), &tenant);
    for (number, ticket) in [(1, "a"), (2, "perm"), (3, "b"), (4, "perm"), (5, "c")] {
        site.session(&format!("drop/call-{number}.json"), &call(number, ticket, 0));
    }
    site.run(&["send", "--all", "drop"]).with_code(1);
    let mut recipients: Vec<_> = relay.received().into_iter().map(|mail| mail.recipient).collect();
    recipients.sort();
    assert_eq!(recipients, ["a@crm.example.com", "b@crm.example.com", "c@crm.example.com"]);
    assert_eq!(relay.sink.connections(), 1);
    let rejected = site.states().into_iter().filter(|state| *state == "rejected").count();
    assert_eq!(rejected, 2);
}
