//! What another mail library thinks of our mails: the one of Python's standard library, which counts defects.

use std::process::Command;

use serde_json::Value;

use crate::support::{Site, TenantFile, parsed, sample};

/// Parses each mail and writes what it found as JSON.
const READER: &str = r#"
import base64, email, email.policy, json, sys

found = []
for path in sys.argv[1:]:
    raw = open(path, "rb").read()
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    defects = []
    for part in mail.walk():
        defects += [repr(defect) for defect in part.defects]
        for name in part.keys():
            defects += [name + ": " + repr(defect) for defect in part[name].defects]
    files = list(mail.iter_attachments())
    found.append({
        "path": path,
        "defects": defects,
        "subject": mail["subject"],
        "sender": mail["from"].addresses[0].display_name,
        "type": mail.get_content_type(),
        "plain": mail.get_body(("plain",)).get_content(),
        "html": mail.get_body(("html",)).get_content(),
        "names": [file.get_filename() for file in files],
        "files": [base64.b64encode(file.get_payload(decode=True)).decode() for file in files],
    })
json.dump(found, sys.stdout)
"#;

#[test]
fn python_reads_every_sample_mail_without_a_defect() {
    let site = Site::new(
        25,
        &TenantFile {
            sender: "address = \"bridge@acme.example.com\"\nname = \"Kundendienst Köln, \\\"Süd\\\"\"",
            missing_ticket: "then = \"catch-all\"\naddress = \"new@crm.example.com\"",
            ..TenantFile::default()
        },
    );
    let mut samples: Vec<_> = std::fs::read_dir(sample(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    samples.sort();
    assert!(samples.len() >= 11);
    let out = site.path("mails").display().to_string();
    let files = samples.iter().map(|path| path.to_str().unwrap());
    let arguments: Vec<&str> = ["send", "--dry-run", "--out", &out].into_iter().chain(files).collect();
    let told = site.run(&arguments).with_code(0).out;
    let mails: Vec<&str> = told.lines().collect();
    assert_eq!(mails.len(), samples.len());
    let read = Command::new("python3").args(["-c", READER]).args(&mails).output();
    let read = read.expect("python3 is needed for this test");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let read: Vec<Value> = serde_json::from_slice(&read.stdout).unwrap();
    for (mail, file) in read.iter().zip(&samples) {
        let name = file.display();
        assert_eq!(mail["defects"], Value::Array(Vec::new()), "{name}");
        assert_eq!(mail["type"], "multipart/mixed", "{name}");
        assert_eq!(mail["sender"], "Kundendienst Köln, \"Süd\"", "{name}");
        let wire = std::fs::read(mail["path"].as_str().unwrap()).unwrap();
        let ours = parsed(&wire);
        assert_eq!(mail["subject"].as_str(), ours.subject(), "{name}");
        assert!(!mail["subject"].as_str().unwrap().contains(['\r', '\n', '\u{fffd}']), "{name}");
        for body in ["plain", "html"] {
            let body = mail[body].as_str().unwrap();
            assert!(
                body.len() > 200 && !body.contains('\u{fffd}') || name.to_string().contains("hostile"),
                "{name}"
            );
        }
        let session: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let kind = if session.get("call_type").is_some() { "call" } else { "chat" };
        assert_eq!(mail["names"][0], format!("{kind}-{}.json", session["id"]), "{name}");
        assert_eq!(mail["names"].as_array().unwrap().len(), 1, "{name}");
        let attached = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            mail["files"][0].as_str().unwrap(),
        );
        assert!(attached.unwrap() == std::fs::read(file).unwrap(), "{name}: the attachment has other bytes");
        let lines: Vec<&[u8]> = wire.split(|byte| *byte == b'\n').collect();
        let (end, lines) = lines.split_last().unwrap();
        assert!(end.is_empty(), "{name} ends in a line end");
        for line in lines {
            let line = line.strip_suffix(b"\r").expect("every LF has its CR");
            assert!(line.len() <= 998 && !line.contains(&b'\r'), "{name}");
        }
    }
}
