//! Sending through a real Postfix: what it needs to take a mail, and what is recorded of it.

use aftercall::token::body_of;
use serde_json::Value;

use super::as_sent;
use super::dovecot::LOGIN;
use super::postfix::{BOUNCES, CRM, MOST_OCTETS, Postfix, certified};
use crate::support::{Site, TenantFile, call, sample, until};

/// The files of the sample sessions that name a ticket.
fn samples_with_a_ticket() -> Vec<String> {
    let names_one = |text: &str| !serde_json::from_str::<Value>(text).unwrap()["out_ticket_id"].is_null();
    let paths = std::fs::read_dir(sample("")).unwrap().map(|entry| entry.unwrap().path());
    let sessions = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    sessions
        .filter(|path| names_one(&std::fs::read_to_string(path).unwrap()))
        .map(|path| path.display().to_string())
        .collect()
}

/// The contents of the log's records about attempts at a session.
fn attempts(site: &Site, session: &str) -> Vec<Value> {
    let contents = site.story(session).records.into_iter().filter_map(|record| record.content);
    let parsed = contents.map(|content| serde_json::from_str::<Value>(&content).unwrap());
    parsed.filter(|content| content.get("attempt").is_some()).collect()
}

/// Sends one session and gives the only attempt at it, and everything that was said.
fn send_one(site: &Site, code: i32) -> (Value, String) {
    let file = site.session("call-1.json", &call(1, "7", 0));
    let ended = site.run(&["send", &file]).with_code(code);
    let told = site.run(&["log", "show", "call-1"]).with_code(0).out;
    let [attempt] = &attempts(site, "call-1")[..] else { panic!("not one attempt: {told}") };
    (attempt.clone(), ended.out + &ended.err + &told)
}

#[test]
fn every_sample_reaches_postfix_as_it_stands_in_the_outbox_and_the_log_has_its_queue_id() {
    let postfix = Postfix::start("plain login");
    let site = postfix.site(&TenantFile::default());
    let samples = samples_with_a_ticket();
    assert_eq!(samples.len(), 9, "{samples:?}");
    let files = samples.iter().map(String::as_str);
    site.run(&["send"].into_iter().chain(files).collect::<Vec<_>>()).with_code(0);
    let stored = postfix.wait_for(CRM, samples.len());
    assert_eq!((stored.len(), site.deliveries().len()), (samples.len(), samples.len()));
    for delivery in site.deliveries() {
        let session = delivery.session.to_string();
        let [attempt] = &attempts(&site, &session)[..] else { panic!("not one attempt at {session}") };
        assert_eq!(attempt["tls"], "TLSv1.3 TLS13_AES_256_GCM_SHA384", "{attempt}");
        assert_eq!((&attempt["code"], &attempt["state"]), (&250.into(), &"accepted".into()), "{attempt}");
        let (_, queue_id) = attempt["answer"].as_str().unwrap().split_once("queued as ").unwrap();
        let mark = format!("(Postfix) with ESMTPSA id {queue_id}\n");
        let is_it = |mail: &&Vec<u8>| String::from_utf8_lossy(mail).contains(&mark);
        let arrived = stored.iter().find(is_it).unwrap_or_else(|| panic!("no mail has {mark}"));
        let sent = site.run(&["log", "mail", &delivery.id.to_string(), "--source"]).with_code(0).out;
        assert_eq!(as_sent(arrived), sent, "{session}");
        // All tokens of a delivery name it in the same way; their codes differ.
        let way = format!(
            "Return-Path: <{BOUNCES}+{}",
            body_of(delivery.message_id.unwrap().split('@').next().unwrap())
        );
        assert!(arrived.starts_with(way.as_bytes()), "{session} did not come by {way}");
    }
}

#[test]
fn postfix_opens_to_a_password_by_plain_and_by_login() {
    for mechanism in ["plain", "login"] {
        let postfix = Postfix::start(mechanism);
        let (attempt, _) = send_one(&postfix.site(&TenantFile::default()), 0);
        assert_eq!(attempt["state"], "accepted", "{attempt}");
        let mark = format!("sasl_method={}, sasl_username={}", mechanism.to_uppercase(), LOGIN.0);
        assert!(postfix.log().contains(&mark), "{}", postfix.log());
    }
}

#[test]
fn a_wrong_password_puts_the_mail_off_and_shows_nowhere() {
    const WRONG: &str = "crooked-copper-9038";
    let postfix = Postfix::start("plain login");
    let site = postfix.site(&TenantFile::default());
    site.write("config/password", WRONG.as_bytes());
    let (attempt, told) = send_one(&site, 75);
    assert_eq!((&attempt["stage"], &attempt["code"]), (&"auth".into(), &535.into()), "{attempt}");
    assert_eq!(attempt["state"], "deferred", "{attempt}");
    assert!(!told.contains(WRONG), "{told}");
    assert!(!postfix.log().contains(": client="), "a mail was begun");
    // The mail is as good as before.
    site.write("config/password", LOGIN.1.as_bytes());
    site.run(&["outbox", "retry", "1"]).with_code(0);
    let serve = site.serve();
    until("the mail to be accepted", || (site.states() == ["accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn a_postfix_that_another_authority_vouches_for_hears_no_password_and_no_mail() {
    let postfix = Postfix::start("plain login");
    let site = postfix.site(&TenantFile::default());
    site.write("config/ca.pem", certified("127.0.0.1").authority.as_bytes());
    let (attempt, _) = send_one(&site, 75);
    assert_eq!((&attempt["stage"], &attempt["state"]), (&"tls".into(), &"deferred".into()), "{attempt}");
    assert!(attempt["answer"].as_str().unwrap().contains("certificate"), "{attempt}");
    let end = until("the end of the connection", || {
        let log = postfix.log();
        log.lines().find(|line| line.contains("starttls=")).map(str::to_owned)
    });
    assert!(end.ends_with(" ehlo=1 starttls=0/1 commands=1/2"), "{end}");
}

#[test]
fn a_recipient_that_postfix_does_not_know_is_refused_for_good() {
    let postfix = Postfix::start("plain login");
    let tenant = TenantFile { recipient: "address = \"nobody@crm.example.com\"", ..TenantFile::default() };
    let (attempt, _) = send_one(&postfix.site(&tenant), 1);
    assert_eq!((&attempt["stage"], &attempt["code"]), (&"rcpt".into(), &550.into()), "{attempt}");
    assert_eq!(attempt["state"], "rejected", "{attempt}");
    assert!(attempt["answer"].as_str().unwrap().contains("5.1.1"), "{attempt}");
}

#[test]
fn a_mail_that_is_too_large_for_postfix_is_refused_for_good_and_the_next_one_taken() {
    let postfix = Postfix::start("plain login");
    let site = postfix.site(&TenantFile::default());
    let mut session = call(2, "7", 0);
    session["padding"] = "x".repeat(MOST_OCTETS).into();
    let (large, small) =
        (site.session("call-2.json", &session), site.session("call-3.json", &call(3, "8", 0)));
    site.run(&["send", &large, &small]).with_code(1);
    let attempt = attempts(&site, "call-2").remove(0);
    // Postfix says its limit in the reply to EHLO, so nothing of the mail goes out.
    assert_eq!((&attempt["stage"], &attempt["state"]), (&"local".into(), &"rejected".into()), "{attempt}");
    assert!(attempt["answer"].as_str().unwrap().contains("5.3.4"), "{attempt}");
    assert_eq!(attempts(&site, "call-3")[0]["state"], "accepted");
    assert_eq!(postfix.wait_for(CRM, 1).len(), 1);
}
