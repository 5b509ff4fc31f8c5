//! How files become sessions: the watched folder, standard input, and files that are no sessions.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use aftercall::clock::Clock;
use aftercall::sink::Script;
use jiff::SignedDuration;
use serde_json::Value;

use crate::support::{PLAIN, Relay, Site, TenantFile, attachment, call, header, parsed, until};

/// Waits until the relay has so many mails.
fn wait_for(relay: &Relay, count: usize) {
    until(&format!("{count} mails"), || (relay.received().len() >= count).then_some(()));
}

/// What the quarantine lists: file name and reason.
fn quarantine(site: &Site) -> Vec<(String, String)> {
    let listed = site.run(&["log", "quarantine", "--format", "json"]).with_code(0).json();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let row = |row: &Value| {
        let file = text(row, "file");
        (file.rsplit('/').next().unwrap().to_owned(), text(row, "reason"))
    };
    listed.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn a_new_file_is_sent_and_a_rewritten_one_followed_up() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 10));
    wait_for(&relay, 1);
    site.session("inbox/acme/call-1.json", &call(1, "7", 20));
    wait_for(&relay, 2);
    assert_eq!(serve.terminate(), 0);
    let received = relay.received();
    let (first, second) = (parsed(&received[0].message), parsed(&received[1].message));
    assert_eq!(header(&second, "In-Reply-To"), format!("<{}>", first.message_id().unwrap()));
    assert_eq!(site.states(), ["accepted", "accepted"]);
}

#[test]
fn files_in_subfolders_are_found_and_hidden_ones_and_media_are_not() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let session = call(2, "7", 0).to_string();
    for name in
        [".call-2.json.tmp", ".hidden/call-2.json", "call-2.json.part", "call-2.mp3", "2.pdf", "README"]
    {
        site.write(&format!("inbox/acme/{name}"), session.as_bytes());
    }
    site.write("inbox/acme/chat-9.txt", b"10:00 Agent: Hello, how can I help?\n");
    site.write("inbox/acme/chat-9.json", br#"{"transcript_version":"1.0","entries":[],"comm_type":"chat"}"#);
    site.session("inbox/acme/2026/01/10/call-1.json", &call(1, "7", 0));
    let serve = site.serve();
    wait_for(&relay, 1);
    // A second session shows that the folder was looked at again, and the transcripts were not told twice.
    site.session("inbox/acme/2026/01/11/call-3.json", &call(3, "7", 0));
    wait_for(&relay, 2);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(site.deliveries().len(), 2);
    assert_eq!(quarantine(&site), []);
    let log = site.serve_log();
    for words in ["a text transcript", "a chat transcript"] {
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
}

#[test]
fn a_half_written_file_is_taken_once_it_is_whole() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let whole = call(1, "7", 0).to_string();
    let serve = site.serve();
    for (round, half) in [&whole[..0], &whole[..1], &whole[..whole.len() / 2]].into_iter().enumerate() {
        site.write("inbox/acme/call-1.json", half.as_bytes());
        // The next file is seen in the same looks at the folder as the half one.
        site.session(&format!("inbox/acme/next-{round}.json"), &call(10 + round as u64, "7", 0));
        wait_for(&relay, round + 1);
    }
    site.write("inbox/acme/call-1.json", whole.as_bytes());
    wait_for(&relay, 4);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(quarantine(&site), []);
    assert_eq!(site.story("call-1").revisions.len(), 1);
}

#[test]
fn a_broken_file_is_quarantined_with_place_and_reason_and_blocks_nothing() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let broken = b"{\n  \"id\": 1,\n  \"call_type\": oops\n}\n";
    site.write("inbox/acme/a-broken.json", broken);
    site.write("inbox/acme/b-keys.json", b"{\"id\": 2, \"call_type\": \"x\"}");
    site.session("inbox/acme/c-good.json", &call(3, "7", 0));
    let serve = site.serve();
    wait_for(&relay, 1);
    until("two in quarantine", || (quarantine(&site).len() == 2).then_some(()));
    // A broken file that is mended counts as new.
    site.session("inbox/acme/a-broken.json", &call(1, "7", 0));
    wait_for(&relay, 2);
    assert_eq!(serve.terminate(), 0);
    let mut listed = quarantine(&site);
    listed.sort();
    assert_eq!(listed[0].0, "a-broken.json");
    assert!(listed[0].1.starts_with("line 3, column "), "{listed:?}");
    assert_eq!(listed[1], ("b-keys.json".to_owned(), "updated_at: missing".to_owned()));
    let kept = site.run(&["log", "quarantine", "1"]).raw;
    let other = site.run(&["log", "quarantine", "2"]).raw;
    assert!(kept == broken || other == broken, "every byte is kept");
    assert_eq!(site.run(&["log", "quarantine", "3"]).code, 1);
    assert!(site.serve_log().contains("quarantined"));
}

#[test]
fn serve_ends_when_asked_and_finishes_what_is_on_the_wire() {
    let relay = Relay::with(Script { delay: Duration::from_millis(500), ..Script::default() });
    let site = Site::new(relay.port(), &TenantFile::default());
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let serve = site.serve();
    until("an attempt", || (site.states() == ["sending"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    relay.only();
    assert_eq!(site.states(), ["accepted"]);
    assert!(site.attempts("call-1").iter().all(|attempt| attempt.ended_at.is_some()));
}

#[test]
fn a_second_serve_on_the_same_store_steps_back() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let first = site.serve();
    until("the first to serve", || site.serve_log().contains("serving").then_some(()));
    let second = site.run(&["serve"]).with_code(75);
    assert!(second.err.contains("another aftercall"), "{}", second.err);
    assert_eq!(first.terminate(), 0);
    let third = site.serve();
    until("the third to serve", || (site.serve_log().matches("serving").count() == 2).then_some(()));
    assert_eq!(third.terminate(), 0, "the right to deliver returns");
}

#[test]
fn a_send_beside_a_serve_leaves_the_delivery_to_it() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let serve = site.serve();
    until("serve", || site.serve_log().contains("serving").then_some(()));
    let file = site.session("elsewhere/call-1.json", &call(1, "7", 0));
    let ended = site.run(&["send", &file]).with_code(0);
    assert!(ended.out.contains("accepted"), "{}", ended.out);
    assert_eq!(serve.terminate(), 0);
    relay.only();
}

#[test]
fn after_kills_in_the_midst_of_sending_every_session_arrives_and_none_twice_without_a_mark() {
    const SESSIONS: u64 = 12;
    let relay = Relay::with(Script { delay: Duration::from_millis(30), ..Script::default() });
    let lane = format!("{PLAIN}\nconnections = 1");
    let retry = "first = \"20ms\"\nlongest = \"20ms\"";
    let site = Site::new(relay.port(), &TenantFile { relay: &lane, retry, ..TenantFile::default() });
    for number in 1..=SESSIONS {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
    for _ in 0..6 {
        let before = relay.received().len();
        let serve = site.serve();
        wait_for(&relay, before + 1);
        serve.kill();
    }
    let serve = site.serve();
    until("every session to be accepted", || {
        let states = site.states();
        (states.len() as u64 == SESSIONS && states.iter().all(|state| *state == "accepted")).then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    let mut arrived: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for mail in relay.received() {
        let id = parsed(&mail.message).message_id().unwrap().to_owned();
        arrived.entry(id).or_default().push(mail.message);
    }
    assert_eq!(arrived.len() as u64, SESSIONS);
    for number in 1..=SESSIONS {
        let story = site.story(&format!("call-{number}"));
        assert_eq!(story.deliveries.len(), 1, "call-{number}");
        let copies = &arrived[story.deliveries[0].message_id.as_deref().unwrap()];
        let uncertain =
            story.attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("uncertain")).count();
        assert!(copies.len() <= 1 + uncertain, "call-{number}: {} copies, {uncertain} marks", copies.len());
        assert!(copies.iter().all(|copy| *copy == copies[0]), "call-{number}: a copy has other bytes");
        assert!(story.attempts.iter().all(|attempt| attempt.outcome.is_some()), "{:?}", story.attempts);
    }
}

#[test]
fn a_session_comes_on_standard_input() {
    for arguments in [&["send"][..], &["send", "-"]] {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        let session = format!("{}\n\n", call(1, "7", 0));
        site.run_with(arguments, session.as_bytes()).with_code(0);
        let (_, bytes) = attachment(&parsed(&relay.only().message));
        assert_eq!(bytes, session.as_bytes());
        assert_eq!(site.story("call-1").revisions[0].source, "standard input");
    }
}

#[test]
fn a_byte_order_mark_is_read_over_and_attached_all_the_same() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let bytes = [b"\xef\xbb\xbf", call(1, "7", 0).to_string().as_bytes()].concat();
    let file = site.write("call-1.json", &bytes);
    site.run(&["send", file.to_str().unwrap()]).with_code(0);
    assert_eq!(attachment(&parsed(&relay.only().message)).1, bytes);
}

#[test]
fn what_is_no_session_is_told_with_place_and_reason() {
    let good = call(1, "7", 0).to_string();
    let utf16 = |swap: fn(u16) -> [u8; 2], mark: &[u8]| -> Vec<u8> {
        mark.iter().copied().chain(good.encode_utf16().flat_map(swap)).collect()
    };
    let mut latin1 = good.clone().into_bytes();
    let at = good.find("finished").unwrap();
    latin1[at] = 0xfc;
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("UTF-16, little end first", utf16(u16::to_le_bytes, b"\xff\xfe"), "UTF-16"),
        ("UTF-16, big end first", utf16(u16::to_be_bytes, b"\xfe\xff"), "UTF-16"),
        ("UTF-16 without a mark", utf16(u16::to_le_bytes, b""), "UTF-16"),
        ("an array", format!("[{good}]").into_bytes(), "line 1, column "),
        ("two documents", format!("{good}\n{good}").into_bytes(), "line 2, column 1"),
        ("a string", b"\"call\"".to_vec(), "expected one JSON object"),
        ("nothing", Vec::new(), "EOF"),
        (
            "a ticket that stands twice",
            good.replacen('{', "{\"out_ticket_id\":\"8\",", 1).into_bytes(),
            "stands twice",
        ),
        ("octets that are no UTF-8", latin1, "line 1, column "),
        (
            "a thousand lists in each other",
            format!("{{\"id\":{}", "[".repeat(1000)).into_bytes(),
            "recursion",
        ),
        (
            "an id that is too large",
            good.replacen("\"id\":1,", "\"id\":99999999999999999999,", 1).into_bytes(),
            "id: ",
        ),
        ("a stamp without an offset", good.replace("00.000Z", "00.000").into_bytes(), "updated_at: "),
    ];
    for (what, bytes, words) in table {
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        let file = site.write("session.json", &bytes);
        let ended = site.run(&["send", file.to_str().unwrap()]).with_code(1);
        assert!(ended.err.contains(words), "{what}: {}", ended.err);
        let listed = quarantine(&site);
        assert_eq!(listed.len(), 1, "{what}");
        assert!(listed[0].1.contains(words), "{what}: {listed:?}");
        assert_eq!(site.run(&["log", "quarantine", "1"]).raw, bytes, "{what}");
        assert_eq!(relay.sink.connections(), 0, "{what}");
    }
}

#[test]
fn one_bad_file_among_good_ones_fails_the_command_and_sends_the_good_ones() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let files = [
        site.session("1.json", &call(1, "7", 0)),
        site.write("2.json", b"{").display().to_string(),
        site.path("not-there.json").display().to_string(),
        site.session("3.json", &call(3, "7", 0)),
    ];
    let arguments: Vec<&str> = ["send"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let ended = site.run(&arguments).with_code(1);
    assert!(ended.err.contains("2.json") && ended.err.contains("not-there.json"), "{}", ended.err);
    assert_eq!(relay.received().len(), 2);
}

#[test]
fn a_huge_file_is_refused_without_being_held_in_memory() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let mut huge = call(1, "7", 0).to_string();
    huge.pop();
    huge.push_str(",\"note\":\"");
    huge.extend(std::iter::repeat_n('x', 50_000_000));
    huge.push_str("\"}");
    site.write("inbox/acme/huge.json", huge.as_bytes());
    drop(huge);
    site.session("inbox/acme/next.json", &call(2, "7", 0));
    let serve = site.serve();
    wait_for(&relay, 1);
    until("the huge file in quarantine", || (!quarantine(&site).is_empty()).then_some(()));
    let peak = serve.peak_memory();
    assert_eq!(serve.terminate(), 0);
    assert!(peak < 100_000, "{peak} kB");
    let listed = quarantine(&site);
    assert!(listed[0].1.contains("limit of 4000000"), "{listed:?}");
    relay.only();
}

#[test]
fn folders_dead_links_and_odd_names_in_the_folder_block_nothing() {
    use std::os::unix::ffi::OsStrExt;
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    std::fs::create_dir_all(site.path("inbox/acme/folder.json")).unwrap();
    std::os::unix::fs::symlink("nowhere", site.path("inbox/acme/dangling.json")).unwrap();
    let odd = site.path("inbox/acme").join(std::ffi::OsStr::from_bytes(b"odd-\xff.json"));
    std::fs::write(odd, call(1, "7", 0).to_string()).unwrap();
    let serve = site.serve();
    wait_for(&relay, 1);
    site.session("inbox/acme/later.json", &call(2, "7", 0));
    wait_for(&relay, 2);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(relay.received().len(), 2, "nothing is taken again and again");
}

#[test]
fn a_pipe_in_the_folder_blocks_nothing() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let pipe = site.path("inbox/acme/pipe.json");
    assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let serve = site.serve();
    wait_for(&relay, 1);
    site.session("inbox/acme/later.json", &call(2, "7", 0));
    wait_for(&relay, 2);
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn a_session_settles_before_it_is_sent_or_until_its_later_revision_comes() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile { top: "settle = \"20m\"", ..TenantFile::default() });
    let ended = Clock::default().now();
    let stamped = |number: u64, minutes: i64| {
        let mut session = call(number, "7", 0);
        session["ends_at"] = ended.to_string().into();
        session["updated_at"] = (ended + SignedDuration::from_mins(minutes)).to_string().into();
        session
    };
    site.session("inbox/acme/call-1.json", &stamped(1, 0));
    site.session("inbox/acme/call-2.json", &stamped(2, 0));
    let serve = site.serve();
    until("both to wait", || (site.states() == ["pending", "pending"]).then_some(()));
    for row in site.deliveries() {
        let wait = row.due.unwrap().duration_since(ended);
        assert!((SignedDuration::from_mins(20) - wait).abs() < SignedDuration::from_secs(1), "{wait}");
        assert_eq!(row.reason, "waits for the session to settle");
    }
    site.session("inbox/acme/call-1.json", &stamped(1, 21));
    wait_for(&relay, 1);
    assert_eq!(serve.terminate(), 0);
    assert!(parsed(&relay.only().message).subject().unwrap().contains("Call 1"));
    let story = site.story("call-1");
    let states: Vec<&str> = story.deliveries.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["superseded", "accepted"]);
    assert_eq!(site.story("call-2").deliveries[0].state.as_str(), "pending");
}

#[test]
fn a_running_serve_does_what_a_person_asks_of_the_outbox() {
    let relay = Relay::start();
    let retry = "first = \"1h\"";
    let recipient = "address = \"once-then-ok@crm.example.com\"";
    let site = Site::new(relay.port(), &TenantFile { retry, recipient, ..TenantFile::default() });
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let serve = site.serve();
    until("the refusal", || (site.states() == ["deferred"]).then_some(()));
    site.run(&["outbox", "hold", "1"]).with_code(0);
    site.run(&["outbox", "release", "1"]).with_code(0);
    wait_for(&relay, 1);
    assert_eq!(serve.terminate(), 0);
    assert_eq!(site.states(), ["accepted"]);
}

#[test]
fn a_file_too_large_for_the_crm_is_left_out_and_the_mail_says_so() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let mut session = call(1, "7", 0);
    session["future_field"] = "x".repeat(3_500_000).into();
    let file = site.session("call-1.json", &session);
    site.run(&["send", &file]).with_code(0);
    let received = relay.only();
    assert!(received.message.len() < 4_000_000);
    let mail = parsed(&received.message);
    assert_eq!(mail.attachments().count(), 0);
    assert!(
        mail.body_text(0)
            .unwrap()
            .contains("The complete session is too large to attach; it is kept in the sent-mail log")
    );
}
