//! A tenant's own program is told of alerts and replies by signed requests, until it says that it has them.

use std::os::unix::process::ExitStatusExt;

use aftercall::crash::Step;
use aftercall::store::DeliveryRow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::crash::SIGABRT;
use crate::http::{Answer, Crm, Heard};
use crate::reconcile::{Bridge, CRM, Sent, followed, reply, unknown};
use crate::support::{TenantFile, call, header, parsed, until};

const SECRET: &str = "a-shared-secret-4711";
const QUERY: &str = "query-secret-0815";

/// A tenant with these keys in `[reactions]`, and a webhook.
fn bridge(hook: &Crm, reactions: &str, retry: &str) -> Bridge {
    let url = format!("{}/hook?key={QUERY}", hook.base());
    let reactions =
        format!("{reactions}\n[reactions.webhook]\nurl = \"{url}\"\nsecret = {{ file = \"hook.key\" }}");
    // The secret is read at the first command.
    let bridge = Bridge::with(&reactions, &TenantFile { retry, ..TenantFile::default() });
    bridge.site.write("config/hook.key", format!("{SECRET}\n").as_bytes());
    bridge
}

/// A person's reply comes back.
fn replied(bridge: &Bridge, sent: &Sent) -> Value {
    bridge.comes(&sent.reply_to, &reply(&sent.reply_to, "jo@elsewhere.example", &sent.message_id))
}

/// What a webhook heard, once its signature was found to be right.
fn verified(heard: &Heard) -> Value {
    let (id, at) = (heard.header("webhook-id"), heard.header("webhook-timestamp"));
    let signed = format!("{id}.{at}.{}", heard.text());
    let signature = heard.header("webhook-signature").strip_prefix("v1,").unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(signed);
    mac.verify_slice(&STANDARD.decode(signature).unwrap()).unwrap();
    assert!(at.parse::<i64>().unwrap() > 1_700_000_000 && id.len() > 32, "{heard:?}");
    assert_eq!((heard.method.as_str(), heard.header("content-type")), ("POST", "application/json"));
    assert_eq!(heard.path, format!("/hook?key={QUERY}"));
    heard.json()
}

/// What was posted to a webhook; whoever looks whether it is back posts nothing.
fn posted(hook: &Crm) -> Vec<Heard> {
    hook.heard().into_iter().filter(|heard| heard.method == "POST").collect()
}

/// The deliveries to the webhook.
fn posts(bridge: &Bridge) -> Vec<DeliveryRow> {
    bridge.site.deliveries().into_iter().filter(|row| row.channel.as_str() == "webhook").collect()
}

/// Lets `serve` work until the deliveries to the webhook are in these states.
fn serves_until(bridge: &Bridge, states: &[&str]) {
    let reached = || posts(bridge).iter().map(|row| row.state.as_str()).eq(states.iter().copied());
    // `send` posts what waits, too.
    if !reached() {
        let serve = bridge.site.serve();
        until(&format!("{states:?}"), || reached().then_some(()));
        assert_eq!(serve.terminate(), 0);
    }
}

#[test]
fn an_alert_and_a_reply_are_posted_signed_besides_the_mails() {
    let hook = Crm::start(|_, _| Answer::status(204));
    let people = "alert = \"alerts@acme.example.com\"\nforward = \"agents@acme.example.com\"";
    let bridge = bridge(&hook, people, "");
    let sent = bridge.send(1, "7");
    assert_eq!(followed(&replied(&bridge, &sent)), ["forwarded"]);
    let shown = bridge.comes(&sent.from, &unknown(&sent));
    assert_eq!(followed(&shown), ["address-stopped", "held", "alerted"]);
    serves_until(&bridge, &["accepted", "accepted"]);

    let mut told: Vec<Value> = posted(&hook).iter().map(verified).collect();
    told.sort_by_key(|told| told["inbound"].as_i64());
    let [words, alert] = &told[..] else { panic!("{told:?}") };
    let judged_at = words["at"].as_str().unwrap().to_owned();
    assert!(judged_at.parse::<jiff::Timestamp>().is_ok(), "{judged_at}");
    let expected = json!({
        "event": "reply", "tenant": "acme", "session": "call-1", "ticket": "7", "delivery": sent.delivery,
        "inbound": 1, "verdict": "reply", "proof": "reply-to", "text": words["text"],
        "from": "jo@elsewhere.example", "at": judged_at,
    });
    assert_eq!(words, &expected);
    let text = words["text"].as_str().unwrap();
    assert!(text.contains("Please call back.") && !text.contains("> Call 1"), "{text}");
    assert_eq!(
        (&alert["event"], &alert["verdict"], &alert["proof"]),
        (&json!("alert"), &json!("bounce"), &json!("envelope-sender"))
    );
    assert!(alert["text"].as_str().unwrap().starts_with("the mail to support@crm.example.com came back"));

    // Each notice has its record.
    let story = bridge.site.story("call-1");
    let contents = story.records.iter().filter_map(|record| record.content.as_deref());
    let by: Vec<Value> = contents
        .map(|content| serde_json::from_str::<Value>(content).unwrap())
        .filter(|content| ["forwarded", "alerted"].iter().any(|word| content["reaction"] == *word))
        .map(|content| content["by"].clone())
        .collect();
    let notices = story.deliveries.iter().filter(|row| row.recipient.as_deref() != Some(CRM));
    assert_eq!(by, notices.map(|row| json!(row.id.0)).collect::<Vec<_>>());
    let people: Vec<_> = story.deliveries.iter().filter_map(|row| row.recipient.as_deref()).collect();
    assert!(people.contains(&"alerts@acme.example.com") && people.contains(&"agents@acme.example.com"));
}

#[test]
fn what_was_not_taken_is_posted_again_under_the_same_id_with_the_same_octets() {
    let hook = Crm::start(|_, number| match number {
        1 => Answer::status(500),
        2 => Answer::Lose,
        3 => Answer::Say(429, "retry-after: 1\r\n".to_owned(), "slowly".to_owned()),
        _ => Answer::status(200),
    });
    let bridge = bridge(&hook, "", "first = \"20ms\"\nlongest = \"20ms\"");
    let sent = bridge.send(1, "7");
    replied(&bridge, &sent);
    serves_until(&bridge, &["accepted"]);
    let heard = posted(&hook);
    assert_eq!(heard.len(), 4);
    heard.iter().for_each(|heard| drop(verified(heard)));
    for again in &heard[1..] {
        assert_eq!(again.body, heard[0].body);
        assert_eq!(again.header("webhook-id"), heard[0].header("webhook-id"));
    }
    let attempts = bridge.site.attempts("call-1");
    let outcomes: Vec<_> =
        attempts.iter().filter_map(|attempt| Some((attempt.outcome.clone()?, attempt.code))).collect();
    let expected = [
        ("accepted", Some(250)),
        ("deferred", Some(500)),
        ("deferred", None),
        ("deferred", Some(429)),
        ("accepted", Some(200)),
    ];
    assert_eq!(outcomes, expected.map(|(outcome, code)| (outcome.to_owned(), code)));
    let shown = bridge.site.run(&["log", "show", "call-1"]).with_code(0).out;
    assert!(shown.contains(&format!("webhook-id {}", heard[0].header("webhook-id"))), "{shown}");
    let octets = bridge.site.run(&["log", "mail", &posts(&bridge)[0].id.to_string()]).with_code(0).raw;
    assert_eq!(octets, heard[0].body);
}

#[test]
fn what_is_refused_for_good_is_given_up_and_no_secret_is_told() {
    let hook = Crm::start(|_, number| {
        let status = if number == 1 { 410 } else { 422 };
        Answer::json(status, &format!("no hook has the key {QUERY}"))
    });
    let bridge = bridge(&hook, "", "first = \"20ms\"");
    for number in [1, 2] {
        let sent = bridge.send(number, "7");
        replied(&bridge, &sent);
    }
    serves_until(&bridge, &["rejected", "rejected"]);
    assert_eq!(posted(&hook).len(), 2);
    let rows = posts(&bridge);
    assert!(rows.iter().any(|row| row.reason.starts_with("at post: 410 Gone")), "{rows:?}");
    assert!(
        rows.iter().all(|row| row.recipient.as_deref() == Some(&format!("{}/hook", hook.base()))),
        "{rows:?}"
    );
    let told = bridge.site.run(&["log", "--format", "json"]).with_code(0).out
        + &bridge.site.run(&["log", "show", "call-1", "--format", "json"]).with_code(0).out
        + &bridge.site.serve_log();
    assert!(
        told.contains("no hook has the key") && !told.contains(QUERY) && !told.contains(SECRET),
        "{told}"
    );
}

#[test]
fn the_updates_of_a_session_go_on_as_if_nothing_had_been_posted() {
    let hook = Crm::start(|_, _| Answer::status(404));
    let bridge = bridge(&hook, "", "");
    let sent = bridge.send(1, "7");
    replied(&bridge, &sent);
    serves_until(&bridge, &["rejected"]);
    // The same file is the same delivery, and a newer one follows the mail.
    let same = bridge.site.session("again.json", &call(1, "7", 0));
    let out = bridge.site.run(&["send", &same]).with_code(0).out;
    assert!(out.contains(&format!("delivery {} to {CRM}: accepted", sent.delivery)), "{out}");
    let newer = bridge.site.session("newer.json", &call(1, "7", 9));
    bridge.site.run(&["send", &newer]).with_code(0);
    let received = bridge.relay.received();
    assert_eq!(received.len(), 2);
    assert_eq!(header(&parsed(&received[1].message), "In-Reply-To"), format!("<{}>", sent.message_id));
    // A bounce finds the mail that it is about.
    let shown = bridge.comes(&sent.from, &unknown(&sent));
    assert_eq!(shown["delivery"].as_i64(), Some(sent.delivery));
}

#[test]
fn of_one_matter_a_webhook_is_told_once_an_hour() {
    let hook = Crm::start(|_, _| Answer::status(200));
    let bridge = bridge(&hook, "fallback = \"second@crm.example.com\"", "");
    for sent in [1, 2].map(|number| bridge.send(number, "7")) {
        let shown = bridge.comes(&sent.from, &unknown(&sent));
        assert_eq!(followed(&shown), ["sent-elsewhere", "alerted"]);
    }
    serves_until(&bridge, &["accepted"]);
    assert_eq!(verified(&posted(&hook)[0])["session"], "call-1");
}

#[test]
fn after_a_death_it_is_posted_again_even_where_uncertain_mails_are_held() {
    let hook = Crm::start(|_, _| Answer::status(200));
    let bridge = bridge(&hook, "", "on_uncertain = \"hold\"");
    let sent = bridge.send(1, "7");
    replied(&bridge, &sent);
    let serve = bridge.site.serve_with(&[("AFTERCALL_CRASH_AT", Step::FinishWritten.as_str())]);
    assert_eq!(serve.ended().signal(), Some(SIGABRT));
    serves_until(&bridge, &["accepted"]);
    let heard = posted(&hook);
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].header("webhook-id"), heard[1].header("webhook-id"));
}

#[test]
fn doctor_looks_whether_a_webhook_is_there_and_posts_nothing() {
    let hook = Crm::start(|_, _| Answer::status(404));
    let bridge = bridge(&hook, "", "");
    let told = bridge.site.run(&["doctor"]).with_code(0).out;
    assert!(told.contains(&format!("webhook 127.0.0.1:{}: ok: it answers", hook.port)), "{told}");
    assert_eq!(hook.lines(), ["HEAD /hook"]);
}

#[test]
fn no_webhook_is_taken_that_others_could_read_or_forge() {
    let table = [
        ("url = \"http://desk.example.com/hook\"", "reactions.webhook.url: must begin with https://"),
        ("url = \"https://desk.example.com/hook\"\nsecret = { file = \"none\" }", "secret.file: cannot read"),
        ("url = \"https://desk.example.com/hook\"", "reactions.webhook.secret: missing"),
    ];
    for (keys, told) in table {
        let bridge = Bridge::new(&format!("[reactions.webhook]\n{keys}"));
        let ended = bridge.site.run(&["check"]);
        assert!(ended.code != 0 && (ended.err + &ended.out).contains(told), "{keys}: {told}");
    }
}
