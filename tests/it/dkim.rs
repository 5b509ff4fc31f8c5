//! DKIM signatures, judged by another implementation: dkimpy.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Relay, Site, TenantFile, call, sample};

const RSA: &str = include_str!("../keys/rsa-pkcs8.pem");
const ED25519: &str = include_str!("../keys/ed25519.pem");
const SHORT: &str = include_str!("../keys/rsa-1024.pem");
const RSA_RECORD: &str = include_str!("../keys/rsa.dns");
const ED25519_RECORD: &str = include_str!("../keys/ed25519.dns");

/// Judges every signature of each mail, as it is and after each change that a reader must notice.
const VERIFIER: &str = r#"
import dkim, json, sys

records = {name.encode(): text.encode() for name, text in json.loads(sys.argv[1]).items()}

def judge(raw):
    verdicts = []
    for at in range(raw.split(b"\r\n\r\n")[0].count(b"DKIM-Signature:")):
        try:
            verdicts.append(dkim.DKIM(raw).verify(at, dnsfunc=lambda name, timeout=5: records.get(name)))
        except dkim.DKIMException as reason:
            verdicts.append(False)
    return verdicts

found = []
for path in sys.argv[2:]:
    raw = open(path, "rb").read()
    head, body = raw.split(b"\r\n\r\n", 1)
    found.append({
        "whole": judge(raw),
        "blanks": judge(head.replace(b"\r\nTo: ", b"\r\nTo:   ") + b"\r\n\r\n" + body + b"\r\n\r\n"),
        "body": judge(head + b"\r\n\r\n" + body.replace(b"=_m_", b"=_n_", 1) + b"x\r\n"),
        "subject": judge(raw.replace(b"\r\nSubject: ", b"\r\nSubject: Re: ", 1)),
        "second from": judge(b"From: evil@example.com\r\n" + raw),
        "second from below": judge(head + b"\r\nFrom: evil@example.com\r\n\r\n" + body),
        "references": judge(head + b"\r\nReferences: <evil@example.com>\r\n\r\n" + body),
    })
json.dump(found, sys.stdout)
"#;

/// Runs the verifier with the first Python that has dkimpy: Debian's package serves Debian's own Python.
fn verdicts(records: &Value, mails: &[String]) -> Vec<Value> {
    let has_dkim = |python: &&&str| {
        let import = Command::new(python).args(["-c", "import dkim, nacl"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let python = ["python3", "/usr/bin/python3"];
    let python = python
        .iter()
        .find(has_dkim)
        .unwrap_or_else(|| panic!("dkimpy (Debian: python3-dkim) is needed for this test"));
    let run = Command::new(python).args(["-c", VERIFIER, &records.to_string()]).args(mails).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    serde_json::from_slice(&run.stdout).unwrap()
}

fn key(domain: &str, selector: &str, file: &str, more: &str) -> String {
    format!(
        "[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = {{ file = \"{file}\" }}\n{more}\n"
    )
}

/// A site whose tenant has these keys; the key files are there.
fn site(port: u16, keys: &str) -> Site {
    let top = format!("settle = \"none\"\n{keys}");
    let sender = "address = \"bridge@acme.example.com\"\nname = \"Kundendienst Köln, \\\"Süd\\\"\"";
    let missing_ticket = "then = \"catch-all\"\naddress = \"new@crm.example.com\"";
    let site = Site::new(port, &TenantFile { top: &top, sender, missing_ticket, ..TenantFile::default() });
    for (name, pem) in [("rsa.pem", RSA), ("ed25519.pem", ED25519), ("short.pem", SHORT)] {
        site.write(&format!("config/{name}"), pem.as_bytes());
    }
    site
}

#[test]
fn another_implementation_verifies_both_signatures_and_notices_every_change() {
    let relay = Relay::start();
    let rsa = format!("dns = \"{}\"", RSA_RECORD.trim_end());
    let ed25519 = format!("dns = \"{}\"", ED25519_RECORD.trim_end());
    let keys =
        key("acme.example.com", "s1", "rsa.pem", &rsa) + &key("example.com", "s2", "ed25519.pem", &ed25519);
    let site = site(relay.port(), &keys);
    site.run(&["check"]).with_code(0);
    let mut samples: Vec<String> = std::fs::read_dir(sample(""))
        .unwrap()
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with(".json"))
        .collect();
    samples.sort();
    let out = site.path("mails").display().to_string();
    let arguments: Vec<&str> =
        ["send", "--dry-run", "--out", &out].into_iter().chain(samples.iter().map(String::as_str)).collect();
    let mut mails: Vec<String> = site.run(&arguments).with_code(0).out.lines().map(str::to_owned).collect();
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    mails.push(site.write("mails/sent.eml", &relay.only().message).display().to_string());
    assert!(mails.len() >= 12);
    let records = json!({
        "s1._domainkey.acme.example.com.": RSA_RECORD.trim_end(),
        "s2._domainkey.example.com.": ED25519_RECORD.trim_end(),
    });
    for (found, mail) in verdicts(&records, &mails).iter().zip(&mails) {
        for (change, holds) in [
            ("whole", true),
            ("blanks", true),
            ("body", false),
            ("subject", false),
            ("second from", false),
            ("second from below", false),
            ("references", false),
        ] {
            assert_eq!(found[change], json!([holds, holds]), "{change} of {mail}");
        }
    }
}

#[test]
fn check_tells_what_is_wrong_with_a_key() {
    let fits_other = format!("dns = \"{}\"", ED25519_RECORD.trim_end());
    let three = key("example.com", "a", "rsa.pem", "") + &key("example.com", "b", "rsa.pem", "");
    let twice = key("example.com", "a", "rsa.pem", "").repeat(2);
    let table = [
        (
            key("example.org", "s", "rsa.pem", ""),
            "acme.toml:4: dkim.domain: example.org is neither the domain",
        ),
        (key("mail.acme.example.com", "s", "rsa.pem", ""), "dkim.domain: mail.acme.example.com is neither"),
        (key("example.com", "s s", "rsa.pem", ""), "acme.toml:5: dkim.selector: \"s s\" is not labels"),
        (key("example.com", "s", "none.pem", ""), "acme.toml:6: dkim.key.file: cannot read \"none.pem\""),
        ("[[dkim]]\ndomain = \"example.com\"\nselector = \"s\"\n".to_owned(), "dkim.key: missing"),
        (three + &key("example.com", "c", "rsa.pem", ""), "dkim: a mail is signed with at most 2 keys"),
        (twice, "dkim.selector: stands twice"),
        (
            key("example.com", "s", "short.pem", ""),
            "dkim 1 (s._domainkey.example.com): an RSA key needs 2048",
        ),
        (
            key("example.com", "s", "rsa.pem", &fits_other),
            "the record in dns does not fit the key; the record",
        ),
    ];
    for (keys, words) in table {
        let site = site(25, &keys);
        let told = site.run(&["check"]).with_code(1).out;
        assert!(told.contains(words), "{words} is not in\n{told}");
        assert!(told.contains("tenants/acme.toml"), "{told}");
        let file = site.session("call-1.json", &call(1, "7", 0));
        assert_ne!(site.run(&["send", &file]).code, 0, "nothing goes out without its signature: {words}");
        assert!(!told.contains("PRIVATE"), "{told}");
    }
}
