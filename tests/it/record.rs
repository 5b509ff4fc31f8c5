//! The record channel from a session file to what the log says, through the program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::http::{Answer, Crm, Heard};
use crate::reconcile::{Sent, report};
use crate::support::{Relay, Site, TenantFile, call, parsed, sample, until};

/// What is attached to tickets: ticket and the request's body.
type Comments = Arc<Mutex<Vec<(String, Value)>>>;

/// A Request Tracker as far as its recipe goes, with a memory.
#[derive(Clone)]
pub(crate) struct Tracker {
    pub(crate) crm: Crm,
    comments: Comments,
}

impl Tracker {
    /// `answer` gets the ticket and the number of this comment for it, from 1, and says whether the comment is kept and
    /// what is answered.
    pub(crate) fn start(answer: impl Fn(&str, usize) -> (bool, Answer) + Send + Sync + 'static) -> Self {
        let comments = Comments::default();
        let (known, counts) = (Arc::clone(&comments), Mutex::new(BTreeMap::<String, usize>::new()));
        let crm = Crm::start(move |heard, _| {
            assert_eq!(heard.header("authorization"), "token tracker-secret-5513");
            let ticket = heard.path.split('/').nth(4).unwrap_or_default().to_owned();
            if heard.method == "GET" {
                return Answer::json(200, &attachments(&known.lock().unwrap(), &ticket).to_string());
            }
            let number = {
                let mut counts = counts.lock().unwrap();
                let count = counts.entry(ticket.clone()).or_default();
                *count += 1;
                *count
            };
            let (is_kept, answer) = answer(&ticket, number);
            if is_kept {
                known.lock().unwrap().push((ticket, heard.json()));
            }
            answer
        });
        Self { crm, comments }
    }

    /// One that takes everything.
    fn content() -> Self {
        Self::start(|_, _| (true, taken()))
    }

    pub(crate) fn comments(&self) -> Vec<(String, Value)> {
        self.comments.lock().unwrap().clone()
    }

    /// The section `[record]` of a tenant with this CRM.
    pub(crate) fn section(&self) -> String {
        section(self.crm.port)
    }

    fn posts(&self) -> Vec<Heard> {
        self.crm.heard().into_iter().filter(|heard| heard.method == "POST").collect()
    }
}

fn section(port: u16) -> String {
    format!(
        "recipe = \"rt\"\nbase = \"http://127.0.0.1:{port}\"\nallow_private = true\nanswer_timeout = \"5s\"\n\
         [record.login]\nkind = \"header\"\nvalue = \"token {{secret}}\"\nsecret = {{ file = \"token\" }}"
    )
}

fn taken() -> Answer {
    Answer::json(201, r#"["Comments added"]"#)
}

fn attachments(comments: &[(String, Value)], ticket: &str) -> Value {
    let of_ticket = comments.iter().filter(|(known, _)| known == ticket);
    let names = of_ticket.map(|(_, comment)| json!({ "Filename": comment["Attachments"][0]["FileName"] }));
    json!({ "items": names.collect::<Value>() })
}

/// A site whose tenant has this channel; it tries again at once.
pub(crate) fn site(channel: &str, record: &str, relay: u16, retry: &str) -> Site {
    let top = format!("settle = \"none\"\nchannel = \"{channel}\"");
    let site = Site::new(relay, &TenantFile::default());
    site.write("config/token", b"tracker-secret-5513\n");
    site.tenant("acme", &TenantFile { top: &top, retry, record, ..TenantFile::default() });
    site
}

const AT_ONCE: &str = "first = \"20ms\"\nlongest = \"20ms\"";

#[test]
fn a_note_and_the_file_reach_the_record_byte_for_byte_and_the_log_says_so() {
    for (file, heading) in
        [("call-50119.json", "Ergebnis"), ("call-50112.json", "Outcome"), ("hostile.json", "Outcome")]
    {
        let tracker = Tracker::content();
        let site = site("record", &tracker.section(), 1, "");
        let path = sample(file);
        let ended = site.run(&["send", path.to_str().unwrap()]).with_code(0);
        let target = format!("http://127.0.0.1:{}", tracker.crm.port);
        assert!(ended.out.contains(&format!("to {target}: accepted (201 ")), "{}", ended.out);

        let comments = tracker.comments();
        assert_eq!(comments.len(), 1, "{file}");
        let (ticket, comment) = &comments[0];
        let attached = STANDARD.decode(comment["Attachments"][0]["FileContent"].as_str().unwrap()).unwrap();
        assert_eq!(attached, std::fs::read(&path).unwrap(), "{file}");
        assert!(comment["Content"].as_str().unwrap().contains(heading), "{file}: {comment}");

        let row = site.deliveries().remove(0);
        assert_eq!(
            (row.channel.as_str(), row.state.as_str(), row.ticket.as_ref()),
            ("record", "accepted", Some(ticket))
        );
        let external_id = row.message_id.unwrap();
        assert!(comment["Attachments"][0]["FileName"].as_str().unwrap().contains(&external_id), "{comment}");
        let attempt = site.attempts(&row.session.to_string()).remove(0);
        assert_eq!(attempt.relay, Some(format!("127.0.0.1:{}", tracker.crm.port)));
        assert_eq!((attempt.stage.as_deref(), attempt.code), (Some("comment"), Some(201)));

        let shown = site.run(&["log", "show", &row.session.to_string()]).with_code(0).out;
        assert!(shown.contains(&format!("delivery 1 by record to {target}: accepted")), "{shown}");
        assert!(shown.contains(&format!("external id {external_id}")), "{shown}");
        let mail = site.run(&["log", "mail", "1"]).with_code(0).out;
        assert!(mail.starts_with(&format!("Record: ticket {ticket} at {target}\n")), "{mail}");
        assert!(mail.contains(heading), "{mail}");
        let listed =
            |channel| site.run(&["log", "--format", "json", "--channel", channel]).with_code(0).json();
        assert_eq!((listed("record").as_array().unwrap().len(), listed("email")), (1, json!([])));
        // The same file again is the same delivery.
        site.run(&["send", path.to_str().unwrap()]).with_code(0);
        assert_eq!(tracker.posts().len(), 1);
    }
}

#[test]
fn each_answer_of_the_crm_has_its_state_its_exit_code_and_its_words() {
    let say = |status, field: &str| {
        Answer::Say(status, field.to_owned(), r#"{"message":"As \u202e told"}"#.to_owned())
    };
    // RT tells by 400 that a ticket is not there; others by 404.
    let table = [
        (say(400, ""), "rejected", 1, "at comment: 400 Bad Request"),
        (say(404, ""), "rejected", 1, "the ticket is not there"),
        (say(413, ""), "rejected", 1, "the size is more than the CRM takes"),
        (say(401, ""), "deferred", 75, "the CRM refuses the login"),
        (say(429, "retry-after: 7200\r\n"), "deferred", 75, "429 Too Many Requests"),
        (say(503, ""), "deferred", 75, "503"),
        (say(302, "location: http://127.0.0.1:1/\r\n"), "deferred", 75, "look at record.base"),
        (Answer::Lose, "uncertain", 75, "at comment: "),
        (Answer::Break(201, "[".to_owned()), "accepted", 0, "201"),
        (Answer::Break(404, "{".to_owned()), "rejected", 1, "404"),
    ];
    for (answer, state, code, words) in table {
        let scripted = answer.clone();
        let tracker = Tracker::start(move |_, _| (false, scripted.clone()));
        let site = site("record", &tracker.section(), 1, "");
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["send", &file]).with_code(code);
        assert!(ended.out.contains(state) && ended.out.contains(words), "{answer:?}: {}", ended.out);
        assert!(!ended.out.contains("tracker-secret") && !ended.err.contains("tracker-secret"), "{answer:?}");
        let row = site.deliveries().remove(0);
        assert_eq!(row.state.as_str(), state, "{answer:?}");
        let waits = row.due.map(|due| due.duration_since(row.changed_at).as_secs());
        match answer {
            Answer::Say(429, ..) => {
                assert!(waits.is_some_and(|waits| (7190..7210).contains(&waits)), "{waits:?}");
            }
            _ => assert!(waits.is_none_or(|waits| waits < 80), "{answer:?}: {waits:?}"),
        }
    }
}

#[test]
fn what_waits_for_a_channel_that_is_taken_out_of_the_configuration_is_held_and_can_be_let_go() {
    let away = || Answer::Say(503, String::new(), String::new());
    let tracker =
        Tracker::start(move |_, number| if number == 1 { (false, away()) } else { (true, taken()) });
    let with = site("record", &tracker.section(), 1, AT_ONCE);
    let file = with.session("call-1.json", &call(1, "7", 0));
    with.run(&["send", &file]).with_code(75);
    let nothing = with.path("nothing").parent().unwrap().to_str().unwrap().to_owned();

    with.tenant("acme", &TenantFile { top: "settle = \"none\"", retry: AT_ONCE, ..TenantFile::default() });
    let ended = with.run(&["send", "--all", &nothing]).with_code(0);
    assert!(ended.err.contains("channel=\"record\" held=1"), "{}", ended.err);
    let row = with.deliveries().remove(0);
    assert_eq!((row.state.as_str(), row.due), ("held", None));
    assert_eq!(row.reason, "the tenant has no channel record any more");
    let shown = with.run(&["log", "show", "call-1"]).with_code(0).out;
    assert!(shown.contains("held") && shown.contains(&row.reason), "{shown}");
    assert_eq!(tracker.posts().len(), 1);

    let top = "settle = \"none\"\nchannel = \"record\"";
    let section = tracker.section();
    with.tenant("acme", &TenantFile { top, retry: AT_ONCE, record: &section, ..TenantFile::default() });
    with.run(&["outbox", "release", "1"]).with_code(0);
    with.run(&["send", "--all", &nothing]).with_code(0);
    assert_eq!((with.states(), tracker.comments().len()), (vec!["accepted"], 1));
}

#[test]
fn a_note_whose_answer_was_lost_is_looked_for_before_it_is_attached_again() {
    for is_kept in [true, false] {
        let tracker = Tracker::start(move |_, number| match number {
            1 => (is_kept, Answer::Lose),
            _ => (true, taken()),
        });
        let site = site("record", &tracker.section(), 1, AT_ONCE);
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["send", &file]);
        assert_eq!(ended.code, 75, "{}", ended.out);
        site.run(&["send", "--all", site.path("nothing").parent().unwrap().to_str().unwrap()]).with_code(0);
        assert_eq!((site.states(), tracker.comments().len()), (vec!["accepted"], 1), "kept {is_kept}");
        let attempts = site.attempts("call-1");
        let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome.as_deref().unwrap()).collect();
        assert_eq!(outcomes, ["uncertain", "accepted"]);
        let posts = tracker.posts();
        assert_eq!(posts.len(), if is_kept { 1 } else { 2 });
        assert!(posts.iter().all(|post| post.body == posts[0].body), "the same octets");
    }
}

#[test]
fn an_uncertain_note_waits_for_a_person_where_the_tenant_wants_that() {
    let tracker = Tracker::start(|_, _| (true, Answer::Lose));
    let site = site("record", &tracker.section(), 1, "on_uncertain = \"hold\"");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    assert_eq!(site.states(), ["held"]);
    let listed = site.run(&["outbox"]).with_code(0).out;
    assert!(listed.contains("uncertain, held for a person"), "{listed}");
    site.run(&["outbox", "release", "1"]).with_code(0);
    site.run(&["send", &file]).with_code(0);
    assert_eq!((site.states(), tracker.comments().len()), (vec!["accepted"], 1), "it is found there");
}

#[test]
fn a_crm_that_is_away_uses_up_no_deliveries_and_mails_go_on() {
    let relay = Relay::start();
    let top = "settle = \"none\"\nchannel = \"record\"";
    let missing_ticket = "then = \"catch-all\"\naddress = \"new@crm.example.com\"\nwait = \"0s\"";
    let record = section(1);
    let site = Site::new(relay.port(), &TenantFile::default());
    site.write("config/token", b"tracker-secret-5513");
    site.tenant(
        "acme",
        &TenantFile { top, missing_ticket, record: &record, retry: AT_ONCE, ..TenantFile::default() },
    );
    for number in 1..=9 {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
    site.session("inbox/acme/call-10.json", &call(10, "", 0));
    let serve = site.serve();
    until("the mail", || (relay.received().len() == 1).then_some(()));
    until("the gate to close", || {
        site.serve_log().contains("cannot be used; its deliveries wait").then_some(())
    });
    assert_eq!(serve.terminate(), 0);
    let rows = site.deliveries();
    let begun = rows.iter().filter(|row| row.channel.as_str() == "record" && row.attempts > 0).count();
    // Three faults close the gate; two more may be under way on the connections, and two are leased to be next.
    assert!(begun <= 7, "{begun} of 9 were tried");
    assert_eq!(
        rows.iter().filter(|row| row.channel.as_str() == "email" && row.state.as_str() == "accepted").count(),
        1
    );
}

#[test]
fn a_crm_that_asks_for_rest_is_not_asked_by_the_others_meanwhile() {
    let tracker =
        Tracker::start(|_, _| (false, Answer::Say(429, "retry-after: 600\r\n".to_owned(), String::new())));
    let record = tracker.section().replace("[record.login]", "connections = 1\n[record.login]");
    let site = site("record", &record, 1, AT_ONCE);
    for number in 1..=9 {
        site.session(&format!("inbox/acme/call-{number}.json"), &call(number, "7", 0));
    }
    let serve = site.serve();
    until("the rest", || site.serve_log().contains("left alone, as it asked").then_some(()));
    until("the sessions", || (site.deliveries().len() == 9).then_some(()));
    assert_eq!(serve.terminate(), 0);
    assert!(tracker.posts().len() <= 3, "{}", tracker.posts().len());
}

#[test]
fn serve_attaches_and_tries_again_and_a_later_revision_follows_with_its_changes() {
    let tracker = Tracker::start(|_, number| match number {
        1 => (false, Answer::status(503)),
        _ => (true, taken()),
    });
    let site = site("record", &tracker.section(), 1, AT_ONCE);
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let serve = site.serve();
    until("the note", || (site.states() == ["accepted"]).then_some(()));
    site.session("inbox/acme/later/call-1.json", &call(1, "7", 5));
    until("the follow-up", || (site.states() == ["accepted", "accepted"]).then_some(()));
    // A revision in which nothing that is shown differs makes no note.
    let mut same = call(1, "7", 5);
    same["updated_at"] = "2026-01-10T10:06:00.000Z".into();
    site.session("inbox/acme/latest/call-1.json", &same);
    until("the third revision", || (site.story("call-1").revisions.len() == 3).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let comments = tracker.comments();
    assert_eq!(comments.len(), 2);
    let text = |at: usize| comments[at].1["Content"].as_str().unwrap().to_owned();
    assert!(text(0).contains("Code of minute 0") && !text(0).contains("Code of minute 5"));
    assert!(text(1).contains("Code of minute 0") && text(1).contains("Code of minute 5"), "{}", text(1));
    let ids: Vec<_> = site.deliveries().into_iter().map(|row| row.message_id).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn what_the_crm_refuses_for_good_goes_by_mail_once_and_the_log_says_so() {
    let tracker = Tracker::start(|ticket, _| match ticket {
        "404" => (false, Answer::json(404, r#"{"message":"No such ticket"}"#)),
        _ => (true, taken()),
    });
    let relay = Relay::start();
    let site = site("record-else-email", &tracker.section(), relay.port(), AT_ONCE);
    let good = site.session("call-1.json", &call(1, "7", 0));
    let refused = site.session("call-2.json", &call(2, "404", 0));
    let ended = site.run(&["send", &good, &refused]).with_code(0);
    assert!(ended.out.contains("rejected (at comment: 404"), "{}", ended.out);
    assert_eq!(tracker.comments().len(), 1);
    assert_eq!(
        parsed(&relay.only().message).subject().map(|subject| subject.starts_with("[#404] ")),
        Some(true)
    );
    let rows = site.deliveries();
    let told: Vec<_> =
        rows.iter().map(|row| (row.channel.as_str(), row.state.as_str(), row.instead_of)).collect();
    let (first, second) = (None, Some(rows[1].id));
    assert_eq!(
        told,
        [("record", "accepted", first), ("record", "rejected", first), ("email", "accepted", second)]
    );
    let shown = site.run(&["log", "show", "call-2"]).with_code(0).out;
    assert!(shown.contains("in the place of delivery 2"), "{shown}");
    let fell =
        site.story("call-2").records.into_iter().find(|row| row.record.contains("\"fell-back\"")).unwrap();
    let content: Value = serde_json::from_str(&fell.content.unwrap()).unwrap();
    assert_eq!(
        (&content["from"], &content["to"], &content["by"]),
        (&json!("record"), &json!("email"), &json!(3))
    );
    assert!(content["why"].as_str().unwrap().contains("404"), "{content}");
    // It is taken over once, and not tried again behind the mail's back.
    site.run(&["send", &refused]).with_code(0);
    site.run(&["outbox", "retry", "2"]).with_code(1);
    assert_eq!((site.deliveries().len(), relay.received().len()), (3, 1));
}

#[test]
fn what_grows_too_old_for_the_crm_goes_by_mail() {
    let relay = Relay::start();
    let tracker = Tracker::start(|_, _| (false, Answer::status(503)));
    let retry = "first = \"20ms\"\nlongest = \"20ms\"\ngive_up_after = \"1s\"";
    let site = site("record-else-email", &tracker.section(), relay.port(), retry);
    site.session("in/call-1.json", &call(1, "7", 0));
    site.run(&["send", "--all", site.path("in").to_str().unwrap()]).with_code(0);
    assert_eq!(site.states(), ["expired", "accepted"]);
    relay.only();
}

#[test]
fn what_the_relay_refuses_for_good_goes_to_the_record_and_fails_only_when_both_do() {
    for (kept, states, code) in [(true, ["rejected", "accepted"], 0), (false, ["rejected", "rejected"], 1)] {
        let tracker =
            Tracker::start(move |_, _| if kept { (true, taken()) } else { (false, Answer::status(404)) });
        let relay = Relay::start();
        let site = Site::new(relay.port(), &TenantFile::default());
        site.write("config/token", b"tracker-secret-5513");
        let (top, record) = ("settle = \"none\"\nchannel = \"email-else-record\"", tracker.section());
        let recipient = "address = \"perm@crm.example.com\"";
        site.tenant("acme", &TenantFile { top, recipient, record: &record, ..TenantFile::default() });
        let file = site.session("call-1.json", &call(1, "7", 0));
        site.run(&["send", &file]).with_code(code);
        assert_eq!(site.states(), states);
        assert_eq!(tracker.comments().len(), usize::from(kept));
    }
}

#[test]
fn a_fall_back_that_was_due_when_the_program_died_is_made_at_the_next_start() {
    let tracker = Tracker::start(|_, _| (false, Answer::status(404)));
    let relay = Relay::start();
    let site = site("record-else-email", &tracker.section(), relay.port(), "");
    let file = site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    site.serve_with(&[("AFTERCALL_CRASH_AT", "finished")]).ended();
    assert_eq!(site.states(), ["rejected"]);
    let serve = site.serve();
    until("the mail", || (site.states() == ["rejected", "accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    relay.only();
}

#[test]
fn a_newer_revision_that_is_planned_makes_the_fall_back_needless() {
    // The CRM refuses while the program that would fall back is dead; the newer revision comes before it is back.
    let tracker =
        Tracker::start(|_, number| if number == 1 { (false, Answer::status(404)) } else { (true, taken()) });
    let relay = Relay::start();
    let site = site("record-else-email", &tracker.section(), relay.port(), "");
    let file = site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    site.serve_with(&[("AFTERCALL_CRASH_AT", "finished")]).ended();
    let later = site.session("later/call-1.json", &call(1, "7", 5));
    // Taken while nobody may send.
    site.run(&["outbox", "pause"]).with_code(0);
    site.run(&["send", &later]);
    site.run(&["outbox", "resume"]).with_code(0);
    site.run(&["send", &later]).with_code(0);
    let records =
        site.story("call-1").records.iter().filter(|row| row.record.contains("\"fell-back\"")).count();
    assert_eq!((records, relay.received().len()), (1, 0));
    assert_eq!((site.states(), tracker.comments().len()), (vec!["rejected", "accepted"], 1));
}

#[test]
fn a_dry_run_and_a_preview_show_the_note_and_connect_to_nothing() {
    let site = site("record", &section(1), 1, "");
    let path = sample("call-50112.json");
    let shown = site.run(&["preview", path.to_str().unwrap()]).with_code(0).out;
    assert!(
        shown.starts_with("Record: ticket 10482 at http://127.0.0.1:1\n") && shown.contains("Outcome"),
        "{shown}"
    );
    let note = site.run(&["send", "--dry-run", path.to_str().unwrap()]).with_code(0).json();
    assert_eq!((&note["ticket"], &note["file_name"]), (&json!("10482"), &json!("call-50112.json")));
    let check = site.run(&["check"]).with_code(0).out;
    assert!(check.contains("tenant acme: ok"), "{check}");
}

#[test]
fn the_doctor_tells_what_works_and_what_does_not() {
    let relay = Relay::start();
    let tracker = Tracker::content();
    let good = site("record", &tracker.section(), relay.port(), "");
    let told = good.run(&["doctor", "acme"]).with_code(0).out;
    let place = format!("record 127.0.0.1:{} (Request Tracker, live): ok: 200", tracker.crm.port);
    assert!(told.contains(": ok: no TLS, without a login") && told.contains(&place), "{told}");
    assert_eq!((relay.received().len(), tracker.posts().len()), (0, 0));
    let refusing = Crm::start(|_, _| Answer::status(401));
    let table = [
        (section(refusing.port), relay.port(), "record 127.0.0.1", "the CRM refuses the login"),
        (section(1), relay.port(), "record 127.0.0.1:1 ", "onnection refused"),
        (tracker.section(), 1, "relay 127.0.0.1:1: failed: connect", "onnection refused"),
    ];
    for (record, relay, place, why) in table {
        let told = site("record", &record, relay, "").run(&["doctor", "acme"]).with_code(1).out;
        let line = told.lines().find(|line| line.starts_with(place)).unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains(": failed: ") && line.contains(why), "{told}");
        assert_eq!(told.lines().filter(|line| line.contains(": ok: ")).count(), 1, "{told}");
    }
}

#[test]
fn the_crms_budget_is_its_own() {
    let tracker = Tracker::content();
    let record = tracker.section().replace("[record.login]", "rate = { per_day = 2 }\n[record.login]");
    let site = site("record", &record, 1, "");
    let files: Vec<String> =
        (1..=4).map(|number| site.session(&format!("call-{number}.json"), &call(number, "7", 0))).collect();
    let serve = site.serve();
    until("serve", || site.serve_log().contains("serving store").then_some(()));
    for file in &files {
        std::fs::copy(file, site.path(&format!("inbox/acme/{}", file.rsplit('/').next().unwrap()))).unwrap();
    }
    until("two", || (tracker.comments().len() == 2).then_some(()));
    until("all to be taken", || (site.deliveries().len() == 4).then_some(()));
    assert_eq!(serve.terminate(), 0);
    assert_eq!(tracker.comments().len(), 2);
    let waiting = site.states().into_iter().filter(|state| *state == "pending").count();
    assert_eq!(waiting, 2, "{:?}", site.states());
}

#[test]
fn an_update_whose_mail_comes_back_for_good_goes_to_the_record() {
    let (tracker, relay) = (Tracker::content(), Relay::start());
    let site = site("email-else-record", &tracker.section(), relay.port(), AT_ONCE);
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    let sent = Sent::of(&relay.only(), 1);
    let mail = report(&sent, "support@crm.example.com", "failed", "5.1.1", "550 5.1.1 No such user here");
    let mail = mail.replace('\n', "\r\n");
    site.run_with(&["receive", "--from", "", "--to", &sent.from], mail.as_bytes()).with_code(0);
    site.run(&["fetch"]).with_code(0);
    let serve = site.serve();
    until("the note", || site.states().ends_with(&["accepted", "accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    assert_eq!((tracker.comments().len(), relay.received().len()), (1, 1));
    let rows = site.deliveries();
    let ways: Vec<_> = rows.iter().map(|row| (row.channel.as_str(), row.instead_of.map(|id| id.0))).collect();
    assert_eq!(ways, [("email", None), ("record", Some(1))]);
}

#[test]
fn a_trial_shows_the_requests_and_makes_none() {
    let tracker = Tracker::content();
    let site = site("record", &tracker.section(), 1, "");
    let file = site.session("call-1.json", &call(1, "7", 0));
    let told = site.run(&["profile", "try", "acme", &file]).with_code(0).out;
    let base = format!("http://127.0.0.1:{}", tracker.crm.port);
    assert!(
        told.contains(&format!("Request   comment: POST {base}/REST/2.0/ticket/7/comment, application/json")),
        "{told}"
    );
    assert!(tracker.crm.heard().is_empty() && !told.contains("tracker-secret"), "{told}");
}
