//! What mails that come back are taken for: each file of `tests/reports` with what `expected.tsv` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aftercall::classify::classify;
use aftercall::classify::rules::Rules;
use aftercall::classify::verdict::{Action, Verdict};
use aftercall::config::marks::{Answer, Mark};
use aftercall::parse::{MAX_OCTETS, MAX_TEXT_OCTETS, Mail, Problem, parse};
use proptest::prelude::*;
use serde_json::Value;

use crate::support::{Site, TenantFile};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports")
}

/// The marks of a CRM that answers as Request Tracker does.
fn marks() -> Vec<Mark> {
    let mark = |answer, subject: &str| Mark {
        answer,
        subject: Some(subject.parse().unwrap()),
        from: Some("@crm\\.example$".parse().unwrap()),
        header: None,
        text: None,
    };
    vec![
        mark(Answer::Opened, r"^\[desk #(?<ticket>\d+)\] AutoReply:"),
        mark(Answer::Refused, "^Message not recorded:"),
    ]
}

fn judged(raw: &[u8]) -> (Mail, Verdict) {
    let mail = parse(raw);
    let verdict = classify(&mail, Rules::shipped(), &marks());
    (mail, verdict)
}

/// All facts that a table can name, as it names them.
fn facts(mail: &Mail, verdict: &Verdict) -> BTreeSet<(String, String)> {
    let json = serde_json::to_value(verdict).unwrap();
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let mut facts = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| (name.to_owned(), value)));
    };
    add("kind", word(&json["kind"]));
    add("sub", word(&json["sub"]));
    add("ticket", verdict.ticket.clone());
    add("message-id", mail.original_message_id().map(str::to_owned));
    add("envelope-id", mail.envelope_id().map(str::to_owned));
    for problem in &mail.problems {
        add("problem", Some(problem.to_string()));
    }
    for one in &verdict.recipients {
        add(one.action.as_str(), Some(one.address.clone()));
        add("about", Some(one.address.clone()));
        add("original", one.original.clone());
        add("remote", one.remote.clone());
    }
    if let Some(first) = verdict.recipients.iter().find(|one| one.action != Action::Delivered) {
        add("status", first.status.clone());
        add("reply", first.reply.map(|reply| reply.to_string()));
        add("reason", Some(first.reason.as_str().to_owned()));
        add("hard", Some(if first.hard { "yes" } else { "no" }.to_owned()));
    }
    facts.into_iter().collect()
}

#[test]
fn each_mail_is_what_the_table_says_and_nobody_else_is_named() {
    let table = std::fs::read_to_string(folder().join("expected.tsv")).unwrap();
    let mut expected: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let [file, name, value] = cells[..] else { panic!("{line}") };
        expected.entry(file).or_default().push((name.to_owned(), value.to_owned()));
    }
    let mut wrong = Vec::new();
    for (file, wanted) in &expected {
        let (mail, verdict) = judged(&std::fs::read(folder().join(file)).unwrap());
        let found = facts(&mail, &verdict);
        for fact in wanted.iter().filter(|fact| !found.contains(fact)) {
            wrong.push(format!("{file}: {fact:?} is not in {found:?} (rule {})", verdict.rule));
        }
        for fact in found.iter().filter(|(name, _)| matches!(name.as_str(), "failed" | "delayed")) {
            let names_any = wanted.iter().any(|(name, _)| *name == fact.0);
            if names_any && !wanted.contains(fact) {
                wrong.push(format!("{file}: names {fact:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let files = std::fs::read_dir(folder()).unwrap().flatten().map(|entry| entry.file_name());
    let files: Vec<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
    let without: Vec<&String> =
        files.iter().filter(|name| name.ends_with(".eml") && !expected.contains_key(name.as_str())).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn the_facts_of_the_header_are_at_hand() {
    let mail = parse(&std::fs::read(folder().join("postfix.eml")).unwrap());
    assert_eq!(mail.delivered_to(), ["updates+k7q2.m9x4@acme.example"]);
    assert_eq!(mail.headers.date().unwrap().to_string(), "2026-03-03T09:20:00Z");
    let returned = mail.returned.unwrap();
    assert_eq!(returned.get("subject"), Some("[#4711] Call finished"));
    assert_eq!(returned.addresses("from"), ["updates@acme.example"]);
    assert_eq!(parse(b"Date: Tue, 99 Foo 2026 99:99:99 +9999\n\nx").headers.date(), None);
}

#[test]
fn without_marks_a_crms_answer_is_an_automatic_one() {
    let mail = parse(&std::fs::read(folder().join("crm-opened.eml")).unwrap());
    let verdict = classify(&mail, Rules::shipped(), &[]);
    assert_eq!(serde_json::to_value(verdict.kind).unwrap(), "auto-reply");
}

#[test]
fn lines_that_end_in_crlf_change_nothing() {
    for entry in std::fs::read_dir(folder()).unwrap().flatten() {
        let raw = std::fs::read(entry.path()).unwrap();
        let text = String::from_utf8_lossy(&raw).replace('\n', "\r\n");
        if entry.path().extension().is_some_and(|ending| ending == "eml") && raw.is_ascii() {
            let (lf, crlf) = (judged(&raw).1, judged(text.as_bytes()).1);
            let addresses = |verdict: &Verdict| {
                verdict.recipients.iter().map(|one| (one.address.clone(), one.reason)).collect::<Vec<_>>()
            };
            assert_eq!((lf.kind, addresses(&lf)), (crlf.kind, addresses(&crlf)), "{:?}", entry.path());
        }
    }
}

#[test]
fn a_verdict_is_the_same_after_it_was_stored() {
    let (_, verdict) = judged(&std::fs::read(folder().join("mixed.eml")).unwrap());
    let stored = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&stored).unwrap(), verdict);
}

#[test]
fn a_rule_of_the_operator_is_asked_first_and_a_wrong_one_is_told_with_its_line() {
    let site = Site::new(2525, &TenantFile::default());
    let own = "[[rules]]\nname = \"house-robot\"\nsays = \"auto-reply\"\nsub = \"autoack\"\nsubject = ['^re: \\[#4711\\]']\n";
    site.write("config/bounce-rules.toml", own.as_bytes());
    let mail = std::fs::read(folder().join("reply-without-threading.eml")).unwrap();
    let mail = String::from_utf8(mail).unwrap().replace("AW:", "Re:");
    site.write("mails/a.eml", mail.as_bytes());
    let told = site.run(&["classify", "mails", "--json"]).with_code(0).json();
    assert_eq!((&told["kind"], &told["rule"]), (&"auto-reply".into(), &"house-robot".into()));

    let wrong = "[[rules]]\nname = \"x\"\nsays = \"bounced\"\nsubject = ['a(']\n[[reasons]]\nreason = \"none\"\ntext = ['UPPER']\n";
    site.write("config/bounce-rules.toml", wrong.as_bytes());
    let told = site.run(&["classify", "mails"]).with_code(2).err;
    for part in [
        "bounce-rules.toml:3: rules.says: ",
        ":4: rules.subject: \"a(\" is no pattern",
        ":6: reasons.reason: ",
        ":7: reasons.text: \"UPPER\" can never fit",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
    let told = site.run(&["check"]).with_code(1).out;
    assert!(told.contains("bounce-rules.toml:3: rules.says: "), "{told}");
}

#[test]
fn classify_scores_itself_by_labels_and_holds_a_floor() {
    let site = Site::new(2525, &TenantFile::default());
    for name in ["postfix.eml", "reply.eml"] {
        site.write(&format!("mails/{name}"), &std::fs::read(folder().join(name)).unwrap());
    }
    let labels = "file\tkind\tfailed\nFILE\tbounce\tsupport@crm.example\nreply.eml\tother\t\n";
    site.write("right.tsv", labels.replace("FILE", "postfix.eml").as_bytes());
    let told = site.run(&[
        "classify",
        "mails",
        "--labels",
        "right.tsv",
        "--floor",
        "exact=100",
        "--floor",
        "fp=100",
    ]);
    assert!(told.with_code(0).out.contains("free text"));
    site.write("wrong.tsv", labels.replace("support@", "audit@").replace("FILE", "postfix.eml").as_bytes());
    let told = site
        .run(&["classify", "mails", "--labels", "wrong.tsv", "--misses", "--floor", "exact=100"])
        .with_code(1);
    assert!(
        told.out.contains("postfix.eml: exact: wanted audit@crm.example, found support@crm.example"),
        "{}",
        told.out
    );
    assert!(told.err.contains("exact: 0.00 %, below the floor of 100 %"), "{}", told.err);
    site.run(&["classify", "mails", "--labels", "right.tsv", "--floor", "beauty=1"]).with_code(2);
}

#[test]
fn what_a_hostile_mail_costs_is_bounded() {
    let nested = "Content-Type: message/rfc822\n\n".repeat(50_000);
    assert!(parse(nested.as_bytes()).problems.contains(&Problem::TooManyParts));
    let parts = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(100_000));
    assert!(parse(parts.as_bytes()).problems.contains(&Problem::TooManyParts));
    let header = format!("Subject: a\n{}\n", "X-A: b\n".repeat(100_000));
    assert!(parse(header.as_bytes()).problems.contains(&Problem::LongHeader));
    let long = format!("Subject: a\n\n{}", "user unknown a@b.example\n".repeat(MAX_OCTETS / 10));
    let (mail, verdict) = judged(long.as_bytes());
    assert!(mail.problems.contains(&Problem::TooLong) && mail.problems.contains(&Problem::LongText));
    assert!(mail.text.len() <= MAX_TEXT_OCTETS && verdict.recipients.len() <= 200);
    let many = format!(
        "Content-Type: message/delivery-status\n\n{}",
        "Final-Recipient: rfc822; a@b.example\nAction: failed\n\n".repeat(20_000)
    );
    assert!(parse(many.as_bytes()).problems.contains(&Problem::TooManyRecipients));
}

/// A mail of the folder with octets changed, taken out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let mails: Vec<Vec<u8>> = std::fs::read_dir(folder())
        .unwrap()
        .flatten()
        .map(|entry| std::fs::read(entry.path()).unwrap())
        .collect();
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8, 1..200_usize);
    (prop::sample::select(mails), prop::collection::vec(change, 1..20)).prop_map(|(mut mail, changes)| {
        for (at, octet, how, length) in changes {
            if mail.is_empty() {
                break;
            }
            let at = at.index(mail.len());
            let end = (at + length).min(mail.len());
            match how {
                0 => mail[at] = octet,
                1 => drop(mail.drain(at..end)),
                2 => mail.insert(at, octet),
                _ => {
                    let copy = mail[at..end].to_vec();
                    mail.splice(at..at, copy);
                }
            }
        }
        mail
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_octets_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..2000)) {
        judged(&raw);
    }

    #[test]
    fn no_damage_to_a_mail_makes_it_panic(raw in mutated()) {
        let (mail, verdict) = judged(&raw);
        prop_assert!(!mail.problems.contains(&Problem::Unreadable));
        prop_assert!(mail.text.len() <= MAX_TEXT_OCTETS && verdict.recipients.len() <= 1000);
    }
}
