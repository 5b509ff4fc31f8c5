//! Mails that only look as if they were about a delivery: none changes anything, and each is there to be seen.

use serde_json::Value;

use crate::reconcile::{Bridge, Sent, report};
use crate::support::TenantFile;

const REACTIONS: &str = "alert = \"alerts@acme.example.com\"\nforward = \"agents@acme.example.com\"\n\
                         authentication = \"mx.acme.example.com\"";
const CRM: &str = "support@crm.example.com";
const STRANGER: &str = "mallory@evil.example";

/// A forged mail: what it tries, to whom it goes (empty for the plain mailbox), and its text.
#[derive(Clone)]
struct Forged {
    tries: &'static str,
    to: String,
    mail: String,
}

fn forged(tries: &'static str, to: impl Into<String>, mail: impl Into<String>) -> Forged {
    Forged { tries, to: to.into(), mail: mail.into() }
}

/// The same envelope sender with another token.
fn bounces_to(token: &str) -> String {
    format!("bridge+{token}@acme.example.com")
}

/// A copy of a delivery that knows only these of its names.
fn knows(from: &str, message_id: &str) -> Sent {
    Sent {
        from: from.to_owned(),
        token: String::new(),
        message_id: message_id.to_owned(),
        reply_to: String::new(),
        delivery: 0,
    }
}

fn bounce(known: &Sent) -> String {
    report(known, CRM, "failed", "5.1.1", "550 5.1.1 No such user here")
}

/// A token with one character changed.
fn bent(token: &str, at: usize) -> String {
    let mut bent = token.to_owned();
    let other = if bent.as_bytes()[at] == b'0' { "1" } else { "0" };
    bent.replace_range(at..=at, other);
    bent
}

/// Reports of failures that nobody on the delivery's way sent.
fn bounces(sent: &Sent, other: &Sent, foreign: &Sent) -> Vec<Forged> {
    let token = &sent.token;
    let id_only = knows("bridge@acme.example.com", &sent.message_id);
    let to = |token: &str| knows(&bounces_to(token), "guess@acme.example.com");
    let report_to = |tries, token: &str| forged(tries, bounces_to(token), bounce(&to(token)));
    let message_token = sent.message_id.split('@').next().unwrap();
    let reply_token = sent.reply_to.split(['+', '@']).nth(1).unwrap();
    let mac_of_other = format!("{}{}", &token[..token.len() - 26], &other.token[other.token.len() - 26..]);
    let envelope_id = |id: &str| {
        bounce(&id_only).replace(
            "Reporting-MTA: dns; mx.example.net",
            &format!("Original-Envelope-Id: {id}\nReporting-MTA: dns; mx.example.net"),
        )
    };
    vec![
        forged("a bounce that knows only the Message-ID", "", bounce(&id_only)),
        forged("the same, handed to the plain mailbox", "bridge@acme.example.com", bounce(&id_only)),
        forged(
            "the same, as if from the tenant's own server",
            "",
            bounce(&id_only).replace("mx.example.net", "acme.example.com"),
        ),
        forged(
            "a bounce in free text that quotes the Message-ID",
            "",
            format!(
                "From: MAILER-DAEMON@mx.example.net\nTo: bridge@acme.example.com\nSubject: failure notice\n\n\
                 <{CRM}>:\n550 5.1.1 no such user\n\n--- Below this line is a copy of the message.\n\n\
                 Message-ID: <{}>\nTo: {CRM}\n",
                sent.message_id
            ),
        ),
        report_to("a guessed token", "c1-0000000000000000000000000000000000"),
        report_to("a guessed session with a made-up code", "c1-abcdefg0123456789bcdfghjklmnpqrs"),
        report_to("the token with its first character changed", &bent(token, 0)),
        report_to("the token with the session's number changed", &bent(token, 1)),
        report_to("the token with the delivery changed", &bent(token, token.find('-').unwrap() + 1)),
        report_to("the token with the first character of its code changed", &bent(token, token.len() - 26)),
        report_to("the token with the last character of its code changed", &bent(token, token.len() - 1)),
        report_to("the token without its last character", &token[..token.len() - 1]),
        report_to("the token without half of its code", &token[..token.len() - 13]),
        report_to("the token without its code", &token[..token.len() - 26]),
        report_to("the token with something behind it", &format!("{token}0")),
        report_to("the token with something before it", &format!("0{token}")),
        report_to("the code of another session's token", &mac_of_other),
        report_to("the token of the Message-ID as that of the envelope", message_token),
        report_to("the token of Reply-To as that of the envelope", reply_token),
        report_to("the token of another tenant", &foreign.token),
        forged(
            "another tenant's Message-ID",
            "",
            bounce(&knows("bridge@acme.example.com", &foreign.message_id)),
        ),
        forged("the Message-ID's token as ENVID", "", envelope_id(message_token)),
        forged("a guessed ENVID", "", envelope_id("c1-0000000000000000000000000000000000")),
        forged("another tenant's ENVID", "", envelope_id(&foreign.token)),
        forged(
            "the token as the whole local part",
            format!("{token}@acme.example.com"),
            bounce(&knows(&format!("{token}@acme.example.com"), "x@acme.example.com")),
        ),
        forged(
            "the token as the name of the addressee",
            "",
            bounce(&knows("bridge@acme.example.com", "x@acme.example.com")).replace(
                "To: bridge@acme.example.com",
                &format!("To: \"bridge+{token}\" <bridge@acme.example.com>"),
            ),
        ),
        forged(
            "the token in the text alone",
            "",
            bounce(&knows("bridge@acme.example.com", "x@acme.example.com"))
                .replace("This is", &format!("{token} This is")),
        ),
        forged(
            "the token as a Message-ID that is answered",
            "",
            bounce(&id_only).replace(
                "Auto-Submitted",
                &format!("In-Reply-To: <{token}@acme.example.com>\nAuto-Submitted"),
            ),
        ),
    ]
}

/// Complaints, receipts and the notices of providers.
fn complaints(sent: &Sent) -> Vec<Forged> {
    let complaint = |from: &str| {
        format!(
            "From: fbl@provider.example\nTo: bridge@acme.example.com\nSubject: Abuse\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nAbuse.\n--b\n\
             Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\n\
             Original-Mail-From: <{from}>\nOriginal-Rcpt-To: <{CRM}>\n\n--b\nContent-Type: text/rfc822-headers\n\n\
             Message-ID: <{}>\n\n--b--\n",
            sent.message_id
        )
    };
    let sieve = format!(
        "From: {STRANGER}\nTo: bridge@acme.example.com\nSubject: Automatically rejected mail\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\n\nRejected.\n--b\n\
         Content-Type: message/disposition-notification\n\nFinal-Recipient: rfc822; {CRM}\n\
         Original-Message-ID: <{}>\nDisposition: automatic-action/MDN-sent-automatically; deleted\n\n--b--\n",
        sent.message_id
    );
    let ses = format!(
        "From: no-reply@sns.amazonaws.com\nTo: bridge@acme.example.com\nSubject: AWS Notification Message\n\n\
         {{\"notificationType\":\"Bounce\",\"bounce\":{{\"bounceType\":\"Permanent\",\"bounceSubType\":\"General\",\
         \"bouncedRecipients\":[{{\"emailAddress\":\"{CRM}\",\"action\":\"failed\",\"status\":\"5.1.1\"}}]}},\
         \"mail\":{{\"source\":\"bridge@acme.example.com\",\"commonHeaders\":{{\"messageId\":\"<{}>\"}},\
         \"headers\":[{{\"name\":\"Message-ID\",\"value\":\"<{}>\"}}]}}}}\n",
        sent.message_id, sent.message_id
    );
    vec![
        forged("a complaint that knows only the Message-ID", "", complaint("bridge@acme.example.com")),
        forged(
            "a complaint with a guessed envelope",
            "",
            complaint(&bounces_to("c1-0000000000000000000000000000000000")),
        ),
        forged("a refusal by a filter that knows only the Message-ID", "", sieve),
        forged("a provider's notice that knows only the Message-ID", "", ses),
    ]
}

/// Answers of a CRM that did not answer.
fn acknowledgements(sent: &Sent) -> Vec<Forged> {
    let opened = |from: &str, ticket: u32, rest: &str| {
        format!(
            "{rest}From: {from}\nTo: bridge@acme.example.com\nSubject: [rt.example.com #{ticket}] AutoReply: Call 1\n\
             Auto-Submitted: auto-replied\nPrecedence: bulk\nIn-Reply-To: <{}>\n\nWe have opened a ticket.\n",
            sent.message_id
        )
    };
    let results = |server: &str, words: &str| format!("Authentication-Results: {server}; {words}\n");
    let pass = "dmarc=pass header.from=crm.example.com";
    let is_mx = "mx.acme.example.com";
    vec![
        forged("an acknowledgement from a stranger", "", opened(STRANGER, 99, "")),
        forged("an acknowledgement with the CRM's address and nobody who vouches", "", opened(CRM, 99, "")),
        forged(
            "one that a server of the forger vouches for",
            "",
            opened(CRM, 99, &results("mx.evil.example", pass)),
        ),
        forged(
            "one that our server found wrong",
            "",
            opened(CRM, 99, &results(is_mx, "dmarc=fail header.from=crm.example.com")),
        ),
        forged(
            "one whose forged field stands below our server's",
            "",
            opened(
                CRM,
                99,
                &(results(is_mx, "dmarc=fail header.from=crm.example.com") + &results(is_mx, pass)),
            ),
        ),
        forged(
            "one that is good for another domain",
            "",
            opened(CRM, 99, &results(is_mx, "dmarc=pass header.from=evil.example")),
        ),
        forged(
            "one with a signature of another domain",
            "",
            opened(CRM, 99, &results(is_mx, "dkim=pass header.d=evil.example")),
        ),
        forged(
            "a domain that only ends alike",
            "",
            opened(
                "support@notcrm.example.com",
                99,
                &results(is_mx, "dmarc=pass header.from=notcrm.example.com"),
            ),
        ),
        forged(
            "two senders, one of them the CRM",
            "",
            opened(&format!("{CRM}, {STRANGER}"), 99, &results(is_mx, pass)),
        ),
        forged(
            "the CRM as the name of a stranger",
            "",
            opened(
                &format!("\"{CRM}\" <{STRANGER}>"),
                99,
                &results(is_mx, "dmarc=pass header.from=evil.example"),
            ),
        ),
        forged(
            "a refusal from a stranger",
            "",
            opened(STRANGER, 7, "")
                .replace("[rt.example.com #7] AutoReply: Call 1", "Message not recorded: Call 1"),
        ),
    ]
}

/// Answers of people who were not asked, and of programs.
fn replies(sent: &Sent, other: &Sent, foreign: &Sent) -> Vec<Forged> {
    let reply = |id: &str, rest: &str| {
        format!(
            "{rest}From: Mallory <{STRANGER}>\nTo: bridge@acme.example.com\nSubject: Re: [rt.example.com #7] Call 1\n\
             In-Reply-To: <{id}>\nReferences: <{id}>\n\nPlease send me the recording.\n"
        )
    };
    vec![
        forged("a reply from a stranger who knows the Message-ID", "", reply(&sent.message_id, "")),
        forged("a reply with another session's Message-ID", "", reply(&other.message_id, "")),
        forged("a reply with another tenant's Message-ID", "", reply(&foreign.message_id, "")),
        forged(
            "a reply with our sender's address",
            "",
            reply(&sent.message_id, "").replace(STRANGER, "bridge@acme.example.com"),
        ),
        forged(
            "a reply by a program to the right address",
            sent.reply_to.clone(),
            reply(&sent.message_id, "Auto-Submitted: auto-generated\n"),
        ),
        forged(
            "a mail of a list to the right address",
            sent.reply_to.clone(),
            reply(&sent.message_id, "List-Id: <all.evil.example>\nPrecedence: list\n"),
        ),
        forged(
            "a mail that runs in a circle",
            sent.reply_to.clone(),
            reply(&sent.message_id, &"Received: from a by b; Mon, 2 Nov 2026 10:00:00 +0000\n".repeat(60)),
        ),
        forged(
            "the token of Reply-To with its code cut",
            format!("{}x@acme.example.com", sent.reply_to.split('@').next().unwrap()),
            reply("nobody@evil.example", ""),
        ),
    ]
}

/// What everything stands at.
fn state(bridge: &Bridge) -> Value {
    let deliveries: Vec<String> = bridge.site.deliveries().iter().map(|row| format!("{row:?}")).collect();
    let stopped = bridge.site.run(&["inbox", "stopped", "--format", "json"]).json();
    let sessions: Vec<_> = ["call-1", "call-2"].map(|session| bridge.site.story(session).ticket).into();
    serde_json::json!([deliveries, stopped, sessions])
}

#[test]
fn no_forged_mail_changes_anything_and_each_is_shown_with_the_reason() {
    let rt = "name = \"rt\"\nvalues = { rtname = \"rt.example.com\" }\n";
    let own = "title = \"Own\"\nsubject = \"[rt.example.com #{ticket}]\"\nreply_to = \"token\"\n\
               [[marks]]\nanswer = \"opened\"\nsubject = '^\\[\\S+ #(?<ticket>\\d+)\\] AutoReply: '\n\
               [[marks]]\nanswer = \"refused\"\nsubject = '^Message not recorded: '\n";
    let profile = TenantFile { profile: "name = \"own\"", ..TenantFile::default() };
    let bridge = Bridge::with(REACTIONS, &profile);
    bridge.site.write("config/profiles/own.toml", own.as_bytes());
    bridge.site.tenant(
        "globex",
        &TenantFile {
            profile: rt,
            sender: "address = \"bridge@globex.example.com\"",
            ..TenantFile::default()
        },
    );
    let (sent, other) = (bridge.send(1, "7"), bridge.send(2, "8"));
    let foreign = bridge.send_of("globex", 1, "7");
    let before = state(&bridge);
    let all = [
        bounces(&sent, &other, &foreign),
        complaints(&sent),
        acknowledgements(&sent),
        replies(&sent, &other, &foreign),
    ]
    .concat();
    assert!(all.len() >= 40, "{} forged mails", all.len());
    let mut wrong = Vec::new();
    for Forged { tries, to, mail } in &all {
        let shown = bridge.comes(to, mail);
        let reactions = &shown["reactions"];
        let is_noted = reactions.as_array().is_some_and(|all| all.len() == 1) && reactions[0][0] == "noted";
        if !is_noted || reactions[0][1].as_str().is_none_or(str::is_empty) || state(&bridge) != before {
            wrong.push(format!("{tries}: {shown:#}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The table proves something only if the genuine ones would have done something.
    let genuine = bridge.comes(&sent.from, &bounce(&sent));
    assert_eq!(genuine["reactions"][0][0], "address-stopped");
}
