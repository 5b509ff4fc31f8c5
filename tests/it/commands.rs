//! What the commands answer, and with which exit code.

use std::path::Path;

use aftercall::ids::Digest;
use aftercall::log::FIRST;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde_json::{Value, json};

use crate::support::{Relay, Site, TenantFile, call, header, parsed, sample};

/// The delivery numbers in a list.
fn ids(site: &Site, arguments: &[&str]) -> Vec<i64> {
    let arguments: Vec<&str> = arguments.iter().chain(&["--format", "json"]).copied().collect();
    let listed = site.run(&arguments).with_code(0).json();
    listed.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
}

#[test]
fn check_tells_every_problem_of_every_file_with_its_place() {
    let site = Site::new(25, &TenantFile::default());
    site.write("config/aftercall.toml", b"log = \"xml\"\n\nsesion_bytes = 5\n");
    site.write("config/tenants/broken.toml", b"title = \"x\"\n[relay\nhost = 1\n");
    site.write(
        "config/tenants/wrong.toml",
        b"settle = \"soon\"\n[sender]\naddress = \"nobody\"\n[recipient]\naddress = \"crm@example.com\"\n\
          [profile]\nname = \"rtt\"\n[relay]\nhost = \"r\"\nport = 70000\npasword = \"x\"\n",
    );
    site.write("config/profiles/own.toml", b"title = \"Own\"\nsubject = \"{tickt}\"\n");
    let told = site.run(&["check"]).with_code(1).out;
    for problem in [
        "aftercall.toml:1: log: \"xml\" is not one of",
        "aftercall.toml:3: sesion_bytes: unknown key; did you mean \"session_bytes\"?",
        "broken.toml:2: ",
        "wrong.toml:1: settle: ",
        "wrong.toml:3: sender.address: ",
        "wrong.toml:7: profile.name: there is no profile \"rtt\"",
        "wrong.toml:10: relay.port: must lie between 1 and 65535",
        "wrong.toml:11: relay.pasword: unknown key; did you mean \"password\"?",
        "own.toml:2: subject: {tickt}",
    ] {
        assert!(told.contains(problem), "{problem} is not in\n{told}");
    }
    assert!(told.trim_end().ends_with(" problems"), "{told}");
    assert!(!told.contains("acme.toml"), "{told}");
    let refused = site.run(&["log"]).with_code(2);
    assert!(refused.err.contains("aftercall.toml:3: sesion_bytes"), "{}", refused.err);
}

#[test]
fn check_finds_nothing_wrong_with_what_ships() {
    let site = Site::new(25, &TenantFile::default());
    for file in ["aftercall.toml", "tenants/acme.toml"] {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(file);
        site.write(&format!("config/{file}"), &std::fs::read(shipped).unwrap());
    }
    let told = site.run(&["check"]).with_code(0).out;
    assert_eq!(told, "tenant acme: ok; Request Tracker: a ticket has one id\n");
}

#[test]
fn a_template_with_a_misspelt_name_is_told_by_check_and_loses_no_mail() {
    let relay = Relay::start();
    let site = Site::new(
        relay.port(),
        &TenantFile { top: "settle = \"none\"\ntemplates = \"own\"", ..TenantFile::default() },
    );
    site.write("config/own/update/subject.txt.hbs", b"About {{sesion.id}} ({{session.id}})");
    let told = site.run(&["check"]).with_code(1).out;
    assert!(told.contains("subject.txt.hbs") && told.contains("sesion"), "{told}");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    assert_eq!(parsed(&relay.only().message).subject(), Some("[#7] About (1)"));
}

#[test]
fn a_template_that_fails_on_a_session_gives_way_to_the_shipped_one() {
    let table = [
        ("body.txt.hbs", "{{#if}}x{{/if}}".to_owned()),
        // 6 times 6 times 6 times 10 kB is more than a body may have.
        (
            "body.html.hbs",
            format!(
                "{{{{#each dispositions}}}}{{{{#each ../dispositions}}}}{{{{#each ../../dispositions}}}}{}{{{{/each}}}}{{{{/each}}}}{{{{/each}}}}",
                "x".repeat(10_000)
            ),
        ),
    ];
    for (name, template) in table {
        let relay = Relay::start();
        let top = "settle = \"none\"\ntemplates = \"own\"";
        let site = Site::new(relay.port(), &TenantFile { top, ..TenantFile::default() });
        site.write(&format!("config/own/update/{name}"), template.as_bytes());
        let mut session = call(1, "7", 0);
        session["dispositions"] = (0..6).map(|at| json!({ "code": format!("Code {at}") })).collect();
        let file = site.session("call-1.json", &session);
        let ended = site.run(&["send", &file]).with_code(0);
        assert!(ended.err.contains("the shipped one is used"), "{name}: {}", ended.err);
        let received = relay.only();
        let mail = parsed(&received.message);
        assert_eq!(mail.subject(), Some("[#7] Call 1: Finished"), "{name}");
        assert!(mail.body_text(0).unwrap().contains("* Outcome"), "{name}");
        assert!(mail.body_html(0).unwrap().contains("<h1"), "{name}");
    }
}

#[test]
fn a_template_that_would_end_the_process_is_refused_at_the_start() {
    for (template, words) in [
        ("line\n{{> self}}", "body.txt.hbs:2: "),
        ("{{{csat.comment}}}", "without escaping"),
        ("{{#if a}}", "body.txt.hbs"),
    ] {
        let site = Site::new(25, &TenantFile { top: "templates = \"own\"", ..TenantFile::default() });
        site.write("config/own/update/body.txt.hbs", template.as_bytes());
        let told = site.run(&["check"]).with_code(1).out;
        assert!(told.contains(words), "{told}");
        let file = site.session("call-1.json", &call(1, "7", 0));
        let ended = site.run(&["send", &file]);
        assert!(ended.code != 0 && ended.err.contains(words), "{}", ended.err);
    }
}

#[test]
fn preview_shows_the_mail_and_stores_nothing() {
    let site = Site::new(25, &TenantFile::default());
    let file = sample("call-50112.json");
    let file = file.to_str().unwrap();
    let text = site.run(&["preview", file]).with_code(0).out;
    for part in [
        "To: support@crm.example.com",
        "Subject: [#10482] Call 50112: Finished",
        "Replacement sent",
        "Maribel Thackeray",
        "Attachment: call-50112.json, 7805 octets",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let german = site.run(&["preview", "--lang", "de", file]).with_code(0).out;
    assert!(german.contains("Subject: [#10482] Anruf 50112: Beendet"), "{german}");
    let unknown = site.run(&["preview", "--lang", "tlh", file]).with_code(0).out;
    assert!(unknown.contains("Call 50112: Finished"), "{unknown}");
    let html = site.run(&["preview", "--html", "--lang", "de", file]).with_code(0).out;
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<html lang=\"de\" dir=\"ltr\">"), "{html}");
    let none = site.write("none.json", b"{}");
    let refused = site.run(&["preview", none.to_str().unwrap()]).with_code(1);
    assert!(refused.err.contains("call_type"), "{}", refused.err);
    assert!(!site.path("config/aftercall.sqlite").exists());
}

#[test]
fn markup_of_a_hostile_session_is_text_in_its_html() {
    let site = Site::new(25, &TenantFile::default());
    let html = site.run(&["preview", "--html", sample("hostile.json").to_str().unwrap()]).with_code(0).out;
    for markup in ["<script", "<img", "<svg", "onload=alert(1)>", "javascript:alert(1)\""] {
        assert!(!html.contains(markup), "{markup}");
    }
    assert!(html.contains("&lt;script&gt;"));
    assert!(html.contains("{{#each dispositions}}"), "template syntax of a session stays as it is");
}

#[test]
fn a_dry_run_writes_the_mail_and_sends_and_stores_nothing() {
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let file = site.session("call-1.json", &call(1, "7", 0));
    let written = site.run(&["send", "--dry-run", &file]).with_code(0).raw;
    let mail = parsed(&written);
    assert_eq!(mail.subject(), Some("[#7] Call 1: Finished"));
    assert_eq!(header(&mail, "Auto-Submitted"), "auto-generated");
    let held = site.session("call-2.json", &call(2, "", 0));
    let out = site.path("mails");
    let ended = site.run(&["send", "--dry-run", "--out", out.to_str().unwrap(), &file, &held]).with_code(1);
    assert!(ended.err.contains("no ticket id"), "{}", ended.err);
    let names: Vec<_> = std::fs::read_dir(out).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["call-1.eml"]);
    assert_eq!(relay.sink.connections(), 0);
    assert!(!site.path("config/aftercall.sqlite").exists());
}

/// Four deliveries: 1 accepted, 2 deferred, 3 rejected, 4 held without a message; and 5 accepted of another tenant.
fn filled() -> (Relay, Site) {
    let relay = Relay::start();
    let recipient = "pattern = \"{ticket}@crm.example.com\"";
    let site = Site::new(relay.port(), &TenantFile { recipient, ..TenantFile::default() });
    site.tenant("other", &TenantFile { recipient, ..TenantFile::default() });
    for (number, ticket, code) in [(1, "seven", 0), (2, "temp", 75), (3, "perm", 1), (4, "", 0)] {
        let file = site.session(&format!("call-{number}.json"), &call(number, ticket, 0));
        site.run(&["send", "--tenant", "acme", &file]).with_code(code);
    }
    let file = site.session("call-1.json", &call(1, "eight", 0));
    site.run(&["send", "--tenant", "other", &file]).with_code(0);
    (relay, site)
}

#[test]
fn the_log_finds_deliveries_by_every_filter() {
    let (_relay, site) = filled();
    let table: &[(&[&str], &[i64])] = &[
        (&[], &[1, 2, 3, 4, 5]),
        (&["--tenant", "acme"], &[1, 2, 3, 4]),
        (&["--session", "call-1"], &[1, 5]),
        (&["--session", "call-1", "--tenant", "other"], &[5]),
        (&["--session", "chat-1"], &[]),
        (&["--ticket", "temp"], &[2]),
        (&["--recipient", "perm@crm.example.com"], &[3]),
        (&["--recipient", "crm.example.com"], &[]),
        (&["--state", "accepted"], &[1, 5]),
        (&["--state", "held", "--state", "deferred"], &[2, 4]),
        (&["--since", "1h"], &[1, 2, 3, 4, 5]),
        (&["--since", "2024-01-01T00:00Z"], &[1, 2, 3, 4, 5]),
        (&["--since", "2200-01-01T00:00Z"], &[]),
        (&["--most", "2"], &[4, 5]),
        (&["--state", "accepted", "--most", "1", "--tenant", "acme"], &[1]),
        (&["--tenant", "nobody"], &[]),
    ];
    for (filter, wanted) in table {
        let arguments: Vec<&str> = ["log"].iter().chain(*filter).copied().collect();
        assert_eq!(ids(&site, &arguments), *wanted, "{filter:?}");
    }
}

#[test]
fn the_log_is_written_for_people_and_for_programs() {
    let (relay, site) = filled();
    let rows = site.run(&["log", "--session", "call-2", "--format", "json"]).with_code(0).json();
    assert_eq!(rows[0]["session"], "call-2");
    assert_eq!(rows[0]["state"], "deferred");
    assert_eq!(rows[0]["attempts"], 1);
    assert!(rows[0]["reason"].as_str().unwrap().contains("mailbox busy"));
    let csv = site.run(&["log", "--format", "csv"]).with_code(0).out;
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert_eq!(lines[0], "id,changed,tenant,session,ticket,recipient,state,attempts,reason");
    assert_eq!(lines.len(), 7, "five rows and nothing behind the last CRLF");
    let table = site.run(&["log"]).with_code(0).out;
    for word in ["accepted", "deferred", "rejected", "held", "seven@crm.example.com"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    let story = site.run(&["log", "show", "call-2"]).with_code(0).out;
    for part in
        ["call-2 of tenant acme", "ticket    temp", "revision  ", "deferred", "attempt 1 began", "450"]
    {
        assert!(story.contains(part), "{part} is not in\n{story}");
    }
    let both = site.run(&["log", "show", "call-1", "--format", "json"]).with_code(0).json();
    let tenants: Vec<&str> =
        both.as_array().unwrap().iter().map(|story| story["tenant"].as_str().unwrap()).collect();
    assert_eq!(tenants, ["acme", "other"]);
    assert_eq!(both[0]["attempts"][0]["outcome"], "accepted");
    assert_eq!(both[0]["log"].as_array().unwrap().len(), 2, "accepted and attempted");
    site.run(&["log", "show", "call-99"]).with_code(1);
    let wire = site.run(&["log", "mail", "1", "--source"]).with_code(0).raw;
    assert_eq!(wire, relay.received()[0].message);
    let shown = site.run(&["log", "mail", "1"]).with_code(0).out;
    assert!(shown.contains("Subject: [#seven] Call 1: Finished"), "{shown}");
    site.run(&["log", "mail", "4"]).with_code(1);
    site.run(&["log", "mail", "99"]).with_code(1);
}

#[test]
fn the_outbox_does_what_a_person_asks_and_refuses_what_makes_no_sense() {
    let (_relay, site) = filled();
    assert_eq!(ids(&site, &["outbox"]), [2, 3, 4], "what is accepted is over");
    assert_eq!(ids(&site, &["outbox", "--state", "accepted", "--tenant", "acme"]), [1]);
    // Command, exit code, what is said on either stream.
    let table: &[(&[&str], i32, &str)] = &[
        (&["hold", "2"], 0, "delivery 2: held"),
        (&["hold", "2"], 1, "delivery 2 stays: it is held"),
        (&["retry", "2"], 1, "is held"),
        (&["release", "2"], 0, "delivery 2: pending"),
        (&["release", "2"], 1, "is pending"),
        (&["retry", "2"], 0, "delivery 2: pending"),
        (&["retry", "3"], 0, "delivery 3: pending"),
        (&["cancel", "3"], 0, "delivery 3: cancelled"),
        (&["cancel", "3"], 1, "is cancelled"),
        (&["release", "4"], 1, "has no message"),
        (&["hold", "1"], 1, "is accepted"),
        (&["cancel", "1", "2"], 1, "delivery 2: cancelled"),
        (&["retry", "99"], 1, "there is no delivery 99"),
        (&["release", "--session", "call-1"], 0, "nothing to do"),
        (&["retry", "--state", "cancelled"], 0, "delivery 2: pending"),
        (&["hold", "--ticket", "perm", "--tenant", "acme"], 0, "delivery 3: held"),
        (&["cancel", "--recipient", "perm@crm.example.com"], 0, "delivery 3: cancelled"),
        (&["cancel", "4"], 0, "delivery 4: cancelled"),
        (&["cancel"], 2, "by number"),
        (&["cancel", "--since", "some day"], 2, "--since"),
    ];
    for (arguments, code, words) in table {
        let arguments: Vec<&str> = ["outbox"].iter().chain(*arguments).copied().collect();
        let ended = site.run(&arguments).with_code(*code);
        assert!(ended.out.contains(words) || ended.err.contains(words), "{arguments:?}: {ended:?}");
    }
    assert_eq!(site.states(), ["accepted", "pending", "cancelled", "cancelled", "accepted"]);
}

#[test]
fn a_rejected_mail_can_be_sent_by_hand_once_the_mailbox_is_there() {
    let relay = Relay::start();
    let recipient = "address = \"perm@crm.example.com\"";
    let site = Site::new(relay.port(), &TenantFile { recipient, ..TenantFile::default() });
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(1);
    site.run(&["outbox", "retry", "1"]).with_code(0);
    // The same file again changes nothing, and its delivery is tried with all that is due.
    std::fs::create_dir(site.path("empty")).unwrap();
    site.run(&["send", "--all", "empty"]).with_code(1);
    let attempts = site.attempts("call-1");
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt.outcome.as_deref() == Some("rejected")));
}

#[test]
fn wrong_use_ends_with_2_and_says_what_is_wrong() {
    let site = Site::new(25, &TenantFile::default());
    let file = site.session("call-1.json", &call(1, "7", 0));
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["sned"], "sned"),
        (&["send", "--fast"], "--fast"),
        (&["send", "--tenant", "nobody", &file], "there are acme"),
        (&["serve", "--tenant", "nobody"], "there are acme"),
        (&["preview", "--tenant", "nobody", &file], "there are acme"),
        (&["send", "--all", "not-there"], "not a folder"),
        (&["send", "--out", "x", &file], "--dry-run"),
        (&["send", "--all", ".", &file], "cannot be used with"),
        (&["log", "--since", "yesterday"], "--since"),
        (&["log", "--state", "sent"], "sent"),
        (&["log", "--session", "41207"], "call-NUMBER"),
        (&["log", "show"], "SESSION"),
        (&["--relay", "mail.example.com", "send", &file], "smtp://"),
        (&["--log", "=[", "log"], "not a log filter"),
        (&["--templates", "not-there", "send", &file], "not-there"),
    ];
    for (arguments, words) in table {
        let ended = site.run(arguments).with_code(2);
        assert!(ended.err.contains(words), "{arguments:?}: {}", ended.err);
        assert!(!ended.err.contains("panicked"));
    }
    site.tenant("other", &TenantFile::default());
    let ended = site.run(&["send", &file]).with_code(2);
    assert!(ended.err.contains("--tenant") && ended.err.contains("acme, other"), "{}", ended.err);
    assert!(site.run(&["--help"]).with_code(0).out.contains("Exit codes"));
    assert!(site.run(&["--version"]).with_code(0).out.starts_with("aftercall "));
}

#[test]
fn flags_take_the_place_of_the_files() {
    let (wrong, right) = (Relay::start(), Relay::start());
    let site = Site::new(wrong.port(), &TenantFile::default());
    let file = site.session("call-1.json", &call(1, "7", 0));
    let (relay, store) = (format!("smtp://127.0.0.1:{}", right.port()), site.path("elsewhere/log.sqlite"));
    site.run(&["--relay", &relay, "--store", store.to_str().unwrap(), "send", &file]).with_code(0);
    right.only();
    assert_eq!(wrong.sink.connections(), 0);
    assert!(store.exists() && !site.path("config/aftercall.sqlite").exists());
}

#[test]
fn nobody_but_its_owner_may_read_the_store() {
    use std::os::unix::fs::PermissionsExt;
    let relay = Relay::start();
    let site = Site::new(relay.port(), &TenantFile::default());
    let serve = site.serve();
    crate::support::until("serve", || site.serve_log().contains("serving").then_some(()));
    for file in std::fs::read_dir(site.path("config")).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        // The lock has nothing in it.
        if name.starts_with("aftercall.sqlite") && file.metadata().unwrap().len() > 0 {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn the_chain_of_each_tenant_can_be_computed_again() {
    let (_relay, site) = filled();
    let newer = site.session("newer.json", &call(4, "nine", 30));
    let broken = site.write("broken.json", b"{]");
    site.run(&["send", "--tenant", "acme", &newer, broken.to_str().unwrap()]).with_code(1);
    for change in ["hold", "release", "retry", "cancel"] {
        site.run(&["outbox", change, "2"]).with_code(0);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = Connection::open_with_flags(site.path("config/aftercall.sqlite"), flags).unwrap();
    let store = site.store();
    let mut events = Vec::new();
    for (tenant, records) in [("acme", 15), ("other", 2)] {
        let chain = store.chain(tenant).unwrap();
        assert_eq!(chain.len(), records, "{tenant}");
        let mut previous = FIRST;
        for (at, row) in chain.iter().enumerate() {
            let expected = Digest::of_parts(&[&previous.0, row.record.as_bytes()]);
            assert_eq!(row.hash, expected, "{tenant} {}", row.number);
            previous = row.hash;
            let record: Value = serde_json::from_str(&row.record).unwrap();
            assert_eq!((record["number"].as_u64().unwrap(), row.number), (at as u64 + 1, at as i64 + 1));
            assert_eq!(record["tenant"], tenant);
            // The content is bound to the record by the session's salt; what has no session has none.
            let salt: Vec<u8> = database
                .query_row(
                    "SELECT s.salt FROM log l JOIN sessions s ON s.id = l.session WHERE l.tenant = ? AND l.number = ?",
                    rusqlite::params![tenant, row.number],
                    |row| row.get(0),
                )
                .optional()
                .unwrap()
                .unwrap_or_default();
            let content = row.content.as_deref().unwrap();
            let bound = Digest::of_parts(&[&salt, content.as_bytes()]).to_string();
            assert_eq!(record["content"], bound, "{tenant} {}", row.number);
            assert_eq!(salt.is_empty(), record["session"].is_null());
            assert!(!row.record.contains("crm.example.com"), "addresses stand in the content only");
            events.push(record["event"].as_str().unwrap().to_owned());
        }
    }
    for event in
        ["accepted", "attempted", "superseded", "quarantined", "held", "released", "retried", "cancelled"]
    {
        assert!(events.iter().any(|found| found == event), "{event} is not in {events:?}");
    }
}

#[test]
fn the_demo_shows_the_whole_job_without_any_outside_service() {
    let site = Site::new(25, &TenantFile::default());
    let folder = site.path("demo");
    let ended = site.run(&["demo", "--folder", folder.to_str().unwrap()]).with_code(0);
    for part in ["Acme Retail: ", "Muster GmbH: ", "accepted", "held", "Subject: "] {
        assert!(ended.out.contains(part), "{part} is not in\n{}", ended.out);
    }
    // Ten samples, two of them without a ticket.
    assert_eq!(std::fs::read_dir(folder.join("mails")).unwrap().count(), 8);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let site = Site::new(25, &TenantFile::default());
    site.run(&["log"]).with_code(0);
    let path = site.path("config/aftercall.sqlite");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = site.run(&["log"]).with_code(1);
    assert!(refused.err.contains("schema 99") && refused.err.contains("newer aftercall"), "{}", refused.err);
    let damaged = site.write("damaged.sqlite", &b"this is no database. ".repeat(300));
    let refused = site.run(&["--store", damaged.to_str().unwrap(), "log"]).with_code(1);
    assert!(refused.err.contains("damaged.sqlite"), "{}", refused.err);
}

#[test]
fn many_commands_can_open_a_new_store_at_once() {
    for _ in 0..3 {
        let site = Site::new(25, &TenantFile::default());
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..8).map(|_| scope.spawn(|| site.run(&["log"]))).collect();
            for ended in running {
                ended.join().unwrap().with_code(0);
            }
        });
    }
}
