//! What comes back is judged, finds its session, and has the consequence that the tenant wants, once.

use std::os::unix::process::ExitStatusExt;

use aftercall::crash::Step;
use aftercall::sink::Received;
use aftercall::store::DeliveryRow;
use serde_json::Value;

use crate::crash::SIGABRT;
use crate::support::{Relay, Site, TenantFile, call, header, parsed, until};

/// A tenant that sends to a scripted relay, and what it sent.
pub(crate) struct Bridge {
    pub(crate) relay: Relay,
    pub(crate) site: Site,
}

/// A mail that went out, as far as it can come back.
pub(crate) struct Sent {
    /// The envelope's sender, and its token.
    pub(crate) from: String,
    pub(crate) token: String,
    /// Without brackets.
    pub(crate) message_id: String,
    pub(crate) reply_to: String,
    pub(crate) delivery: i64,
}

impl Sent {
    /// What of a message can come back.
    pub(crate) fn of(received: &Received, delivery: i64) -> Self {
        let message = parsed(&received.message);
        let reply_to = header(&message, "Reply-To");
        let reply_to = reply_to.rsplit('<').next().unwrap_or_default().trim_end_matches('>').to_owned();
        let token = received.from.split(['+', '@']).nth(1).unwrap().to_owned();
        let message_id = message.message_id().unwrap().to_owned();
        Self { from: received.from.clone(), token, message_id, reply_to, delivery }
    }
}

const ALERT: &str = "alert = \"alerts@acme.example.com\"\nforward = \"agents@acme.example.com\"";

impl Bridge {
    /// A tenant with these keys in `[reactions]`.
    pub(crate) fn new(reactions: &str) -> Self {
        Self::with(reactions, &TenantFile::default())
    }

    pub(crate) fn with(reactions: &str, tenant: &TenantFile<'_>) -> Self {
        let relay = Relay::start();
        let rest = format!("{}\n[reactions]\n{reactions}\n", tenant.missing_ticket);
        let site = Site::new(relay.port(), &TenantFile { missing_ticket: &rest, ..*tenant });
        Self { relay, site }
    }

    /// Sends a session's mail.
    pub(crate) fn send(&self, number: u64, ticket: &str) -> Sent {
        self.send_of("acme", number, ticket)
    }

    /// Sends a session's mail of another tenant.
    pub(crate) fn send_of(&self, tenant: &str, number: u64, ticket: &str) -> Sent {
        let before = self.relay.received().len();
        let file = self.site.session(&format!("call-{number}.json"), &call(number, ticket, 0));
        self.site.run(&["send", "--tenant", tenant, &file]).with_code(0);
        let received = self.relay.received().swap_remove(before);
        let rows = self.site.deliveries();
        let message_id = parsed(&received.message).message_id().unwrap().to_owned();
        let row = rows.iter().find(|row| row.message_id.as_ref() == Some(&message_id)).unwrap();
        Sent::of(&received, row.id.0)
    }

    /// A mail comes back to an address and is judged; how, is what the inbox shows of it.
    pub(crate) fn comes(&self, to: &str, mail: &str) -> Value {
        let known = self.inbox();
        let mail = mail.replace('\n', "\r\n");
        let arguments =
            if to.is_empty() { vec!["receive"] } else { vec!["receive", "--from", "", "--to", to] };
        self.site.run_with(&arguments, mail.as_bytes()).with_code(0);
        self.site.run(&["fetch"]).with_code(0);
        let new: Vec<i64> = self.inbox().into_iter().filter(|id| !known.contains(id)).collect();
        let [id] = new[..] else { panic!("{new:?} came of one mail") };
        self.site.run(&["inbox", "show", &id.to_string(), "--format", "json"]).with_code(0).json()
    }

    fn inbox(&self) -> Vec<i64> {
        let rows = self.site.run(&["inbox", "--format", "json"]).with_code(0).json();
        rows.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect()
    }

    /// The deliveries to an address.
    fn to(&self, address: &str) -> Vec<DeliveryRow> {
        let all = self.site.deliveries();
        all.into_iter().filter(|row| row.recipient.as_deref() == Some(address)).collect()
    }

    /// Lets `serve` send what waits, until so many messages have arrived, and gives the newest.
    fn sends_until(&self, count: usize) -> Received {
        let serve = self.site.serve();
        until(&format!("{count} messages"), || (self.relay.received().len() >= count).then_some(()));
        assert_eq!(serve.terminate(), 0);
        self.relay.received().swap_remove(count - 1)
    }
}

/// The words for what followed.
pub(crate) fn followed(shown: &Value) -> Vec<String> {
    let reactions = shown["reactions"].as_array().unwrap();
    reactions.iter().map(|reaction| reaction[0].as_str().unwrap().to_owned()).collect()
}

/// Why nothing followed.
pub(crate) fn noted(shown: &Value) -> String {
    assert_eq!(followed(shown), ["noted"], "{shown:#}");
    shown["reactions"][0][1].as_str().unwrap().to_owned()
}

pub(crate) const CRM: &str = "support@crm.example.com";

/// A delivery report of our own relay about a recipient.
pub(crate) fn report(sent: &Sent, recipient: &str, action: &str, status: &str, text: &str) -> String {
    let (from, message_id) = (&sent.from, &sent.message_id);
    format!(
        "From: MAILER-DAEMON@mx.example.net (Mail Delivery System)
To: {from}
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"

--b
Content-Type: text/plain

This is the mail system at host mx.example.net. Your message could not be delivered.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.net

Final-Recipient: rfc822; {recipient}
Action: {action}
Status: {status}
Diagnostic-Code: smtp; {text}

--b
Content-Type: text/rfc822-headers

From: bridge@acme.example.com
To: {recipient}
Subject: an update
Message-ID: <{message_id}>

--b--
"
    )
}

pub(crate) fn unknown(sent: &Sent) -> String {
    report(sent, CRM, "failed", "5.1.1", "550 5.1.1 No such user here")
}

/// A person's answer.
pub(crate) fn reply(to: &str, from: &str, message_id: &str) -> String {
    format!(
        "From: Jo Doe <{from}>\nTo: {to}\nSubject: Re: [#7] Call 1\nMessage-ID: <r1@crm.example.com>\n\
         In-Reply-To: <{message_id}>\nReferences: <{message_id}>\n\nPlease call back.\n\n\
         On Mon, 2 Nov 2026 at 10:00, Acme <bridge@acme.example.com> wrote:\n> Call 1\n"
    )
}

#[test]
fn a_hard_bounce_stops_its_address_holds_the_update_and_tells_a_person() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let shown = bridge.comes(&sent.from, &unknown(&sent));
    assert_eq!(shown["verdict"]["kind"], "bounce");
    assert_eq!(
        (shown["delivery"].as_i64(), shown["proof"].as_str()),
        (Some(sent.delivery), Some("envelope-sender"))
    );
    assert_eq!(followed(&shown), ["address-stopped", "held", "alerted"]);
    // The delivery was accepted by the relay, and stays so; what follows is a delivery of its own.
    let rows = bridge.to(CRM);
    assert_eq!(rows.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(), ["accepted", "held"]);
    assert!(rows[1].reason.contains("5.1.1 userunknown 550 5.1.1 No such user here"), "{}", rows[1].reason);
    let alert = bridge.sends_until(2);
    assert_eq!(alert.recipient, "alerts@acme.example.com");
    let alert = parsed(&alert.message);
    let text = alert.body_text(0).unwrap();
    assert!(
        text.contains("the mail to support@crm.example.com came back")
            && text.contains("call-1 of tenant acme")
    );
    assert_eq!(header(&alert, "Auto-Submitted"), "auto-generated");
    // The next update does not go there either, until a person says so.
    let file = bridge.site.session("call-2.json", &call(2, "8", 0));
    bridge.site.run(&["send", &file]).with_code(0);
    let held = bridge.to(CRM).pop().unwrap();
    assert!(held.state.as_str() == "held" && held.reason.contains("nothing goes to the address"), "{held:?}");
    let stopped = bridge.site.run(&["inbox", "stopped"]).with_code(0).out;
    assert!(stopped.contains(CRM), "{stopped}");
    bridge.site.run(&["inbox", "lift", CRM, "--tenant", "acme"]).with_code(0);
    bridge.site.run(&["outbox", "release", "--session", "call-2"]).with_code(0);
    assert_eq!(bridge.sends_until(3).recipient, CRM);
    let story = bridge.site.run(&["log", "show", "call-1"]).with_code(0).out;
    assert!(
        story.contains("came back")
            && story.contains("bounce about delivery 1: address-stopped, held, alerted"),
        "{story}"
    );
}

#[test]
fn an_update_that_bounced_hard_goes_to_the_other_address_where_there_is_one() {
    let bridge = Bridge::new(&format!("{ALERT}\nfallback = \"second@crm.example.com\""));
    let sent = bridge.send(1, "7");
    assert_eq!(followed(&bridge.comes(&sent.from, &unknown(&sent))), ["sent-elsewhere", "alerted"]);
    let received = bridge.sends_until(3);
    let other =
        bridge.relay.received().into_iter().find(|mail| mail.recipient == "second@crm.example.com").unwrap();
    assert!(parsed(&other.message).subject().unwrap().starts_with("[#7] Call 1"));
    assert_ne!(received.from, sent.from);
    // The report that comes once more has no consequence once more.
    let again = unknown(&sent).replace("mx.example.net.", "mx.example.net!");
    assert_eq!(noted(&bridge.comes(&sent.from, &again)), "that it did not arrive was known");
}

#[test]
fn a_soft_bounce_goes_out_again_with_the_same_bytes_so_often_and_then_waits_for_a_person() {
    let bridge = Bridge::new(&format!("{ALERT}\nsoft_wait = \"1s\"\nsoft_times = 2"));
    let sent = bridge.send(1, "7");
    let full =
        |words: &str| report(&sent, CRM, "failed", "4.2.2", &format!("452 4.2.2 mailbox full {words}"));
    for (count, words) in [(2, "first"), (3, "second")] {
        assert_eq!(followed(&bridge.comes(&sent.from, &full(words))), ["sent-again"]);
        assert_eq!(bridge.sends_until(count).message, bridge.relay.received()[0].message);
    }
    assert_eq!(followed(&bridge.comes(&sent.from, &full("third"))), ["held", "alerted"]);
    let states: Vec<&str> = bridge.to(CRM).iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["accepted", "accepted", "accepted", "held"]);
}

#[test]
fn a_mail_that_was_too_big_goes_out_without_the_file() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let big = report(&sent, CRM, "failed", "5.3.4", "552 5.3.4 Message size exceeds fixed limit");
    assert_eq!(followed(&bridge.comes(&sent.from, &big)), ["sent-smaller"]);
    let smaller = bridge.sends_until(2);
    assert_eq!(parsed(&smaller.message).attachments().count(), 0);
    assert!(smaller.recipient == CRM && smaller.message.len() < bridge.relay.received()[0].message.len());
}

#[test]
fn what_calls_for_nothing_is_noted() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let delay = report(&sent, CRM, "delayed", "4.4.1", "connection timed out");
    let arrived = report(&sent, CRM, "delivered", "2.0.0", "250 2.0.0 Ok");
    let away = format!(
        "From: Jo <jo@crm.example.com>\nTo: {}\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nAway.\n",
        sent.from
    );
    for (mail, kind) in [(delay, "delay"), (arrived, "delivered"), (away, "auto-reply")] {
        let shown = bridge.comes(&sent.from, &mail);
        assert_eq!(
            (shown["verdict"]["kind"].as_str(), noted(&shown).as_str()),
            (Some(kind), "there is nothing to do")
        );
        assert_eq!(shown["session"], "call-1");
    }
    assert_eq!(bridge.site.states(), ["accepted"]);
}

#[test]
fn the_same_mail_twice_is_one_inbound_and_has_one_consequence() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    bridge.comes(&sent.from, &unknown(&sent));
    let (inbox, deliveries) = (bridge.inbox(), bridge.site.deliveries().len());
    let mail = unknown(&sent).replace('\n', "\r\n");
    bridge.site.run_with(&["receive", "--from", "", "--to", &sent.from], mail.as_bytes()).with_code(0);
    bridge.site.run(&["fetch"]).with_code(0);
    assert_eq!((bridge.inbox(), bridge.site.deliveries().len()), (inbox, deliveries));
}

#[test]
fn after_a_death_while_judging_a_mail_has_its_consequence_once() {
    for step in [Step::JudgeWritten, Step::Judged] {
        let bridge = Bridge::new(ALERT);
        let sent = bridge.send(1, "7");
        let mail = unknown(&sent).replace('\n', "\r\n");
        bridge.site.run_with(&["receive", "--from", "", "--to", &sent.from], mail.as_bytes()).with_code(0);
        let serve = bridge.site.serve_with(&[("AFTERCALL_CRASH_AT", step.as_str())]);
        assert_eq!(serve.ended().signal(), Some(SIGABRT), "{step:?}");
        assert_eq!(bridge.site.deliveries().len(), if step == Step::Judged { 3 } else { 1 }, "{step:?}");
        let serve = bridge.site.serve();
        until("the alert", || (bridge.relay.received().len() == 2).then_some(()));
        assert_eq!(serve.terminate(), 0);
        let states: Vec<&str> = bridge.to(CRM).iter().map(|row| row.state.as_str()).collect();
        assert_eq!((states, bridge.site.deliveries().len()), (vec!["accepted", "held"], 3), "{step:?}");
    }
}

#[test]
fn a_persons_reply_is_handed_on_with_its_own_words_and_the_session() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let shown =
        bridge.comes(&sent.reply_to, &reply(&sent.reply_to, "jo@elsewhere.example", &sent.message_id));
    assert_eq!(
        (shown["verdict"]["kind"].as_str(), shown["proof"].as_str()),
        (Some("reply"), Some("reply-to"))
    );
    assert_eq!(followed(&shown), ["forwarded"]);
    let forwarded = bridge.sends_until(2);
    assert_eq!(forwarded.recipient, "agents@acme.example.com");
    let mail = parsed(&forwarded.message);
    let text = mail.body_text(0).unwrap();
    assert!(
        text.contains("Please call back.") && text.contains("Ticket:   7") && !text.contains("> Call 1"),
        "{text}"
    );
    assert_eq!(header(&mail, "Reply-To"), "jo@elsewhere.example");
    // Whoever answers the notice by a program finds nobody.
    let bounce = format!(
        "From: <>\nTo: {}\nSubject: Undelivered Mail\n\n<agents@acme.example.com>: 550 5.1.1 unknown\n",
        forwarded.from
    );
    assert_eq!(noted(&bridge.comes(&forwarded.from, &bounce)), "it is about a notice, not about an update");
}

#[test]
fn a_complaint_stops_the_address() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let complaint = format!(
        "From: fbl@provider.example\nTo: bridge@acme.example.com\nSubject: Abuse\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nAn abuse report.\n--b\n\
         Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: x/1\nVersion: 1\n\
         Original-Mail-From: <{}>\nOriginal-Rcpt-To: <{CRM}>\n\n--b\nContent-Type: text/rfc822-headers\n\n\
         Message-ID: <{}>\n\n--b--\n",
        sent.from, sent.message_id
    );
    let shown = bridge.comes("", &complaint);
    assert_eq!(
        (shown["verdict"]["kind"].as_str(), shown["proof"].as_str()),
        (Some("complaint"), Some("returned-sender"))
    );
    assert_eq!(followed(&shown), ["address-stopped", "alerted"]);
}

/// What Request Tracker answers when it has opened a ticket.
fn opened(to: &str, from: &str, ticket: u32, message_id: &str) -> String {
    format!(
        "From: \"Support via RT\" <{from}>\nTo: {to}\nSubject: [rt.example.com #{ticket}] AutoReply: Call 1\n\
         Auto-Submitted: auto-replied\nPrecedence: bulk\nIn-Reply-To: <{message_id}>\n\nWe have opened a ticket.\n"
    )
}

const RT: &str = "name = \"rt\"\nvalues = { rtname = \"rt.example.com\" }";

#[test]
fn an_update_that_went_into_another_ticket_is_told_to_a_person() {
    let bridge = Bridge::with(ALERT, &TenantFile { profile: RT, ..TenantFile::default() });
    let sent = bridge.send(1, "7");
    let shown = bridge.comes("", &opened("bridge@acme.example.com", CRM, 99, &sent.message_id));
    assert_eq!(
        (shown["verdict"]["kind"].as_str(), shown["proof"].as_str()),
        (Some("acknowledgement"), Some("thread"))
    );
    assert_eq!(shown["reactions"][0][0], "alerted");
    assert_eq!(shown["reactions"][0][1], "the update for ticket 7 went into ticket 99");
    let refused = format!(
        "From: {CRM}\nTo: bridge@acme.example.com\nSubject: Message not recorded: Call 1\nPrecedence: bulk\n\
         In-Reply-To: <{}>\n\nNo permission.\n",
        sent.message_id
    );
    let shown = bridge.comes("", &refused);
    assert_eq!(shown["reactions"][0][1], "the CRM did not record the update for ticket 7");
}

#[test]
fn a_session_without_a_ticket_gets_the_one_that_the_crm_opened_for_it() {
    let tenant = TenantFile {
        profile: RT,
        missing_ticket: "then = \"catch-all\"\naddress = \"new@crm.example.com\"\nwait = \"0s\"",
        ..TenantFile::default()
    };
    let bridge = Bridge::with(ALERT, &tenant);
    let sent = bridge.send(1, "");
    let shown =
        bridge.comes("", &opened("bridge@acme.example.com", "new@crm.example.com", 42, &sent.message_id));
    assert_eq!(
        (followed(&shown), shown["reactions"][0][1].as_str()),
        (vec!["ticket-taken".to_owned()], Some("42"))
    );
    let later = bridge.site.session("later.json", &call(1, "", 9));
    bridge.site.run(&["send", &later]).with_code(0);
    let update = bridge.relay.received().pop().unwrap();
    assert_eq!(update.recipient, CRM);
    assert!(parsed(&update.message).subject().unwrap().starts_with("[rt.example.com #42] "));
}

#[test]
fn what_nothing_ties_to_a_delivery_waits_for_a_person_who_can_assign_it() {
    let bridge = Bridge::new(ALERT);
    let sent = bridge.send(1, "7");
    let lost = format!(
        "From: MAILER-DAEMON@old.example.net\nTo: bridge@acme.example.com\nSubject: failure notice\n\n\
        Hi. This is the qmail-send program at old.example.net.\nI'm afraid I wasn't able to deliver your message.\n\n\
        <{CRM}>:\nSorry, no mailbox here by that name. (#5.1.1)\n"
    );
    let shown = bridge.comes("", &lost);
    assert_eq!((shown["verdict"]["kind"].as_str(), &shown["delivery"]), (Some("bounce"), &Value::Null));
    assert_eq!(noted(&shown), "nothing ties it to a delivery");
    let unmatched = bridge.site.run(&["inbox", "--unmatched"]).with_code(0).out;
    assert!(unmatched.contains("bounce"), "{unmatched}");
    let (id, delivery) = (shown["id"].to_string(), sent.delivery.to_string());
    let hint = bridge.site.run(&["inbox", "show", &id]).with_code(0).out;
    assert!(hint.contains(&format!("aftercall inbox assign {id} {delivery}")), "{hint}");
    let assigned = bridge.site.run(&["inbox", "assign", &id, &delivery]).with_code(0).out;
    assert!(assigned.contains("proof: hand") && assigned.contains("followed  address-stopped"), "{assigned}");
    // Once more is not twice.
    let again = bridge.site.run(&["inbox", "assign", &id, &delivery]).with_code(0).out;
    assert!(again.contains("that it did not arrive was known"), "{again}");
}

#[test]
fn a_new_rule_can_be_tried_on_what_came_before() {
    let bridge = Bridge::new(ALERT);
    let shown = bridge.comes(
        "",
        "From: robot@partner.example\nTo: bridge@acme.example.com\nSubject: Frobnication complete\n\nDone.\n",
    );
    assert_eq!(shown["verdict"]["kind"], "other");
    let none = bridge.site.run(&["inbox", "reclassify"]).with_code(0).out;
    assert!(!none.contains("other"), "{none}");
    bridge.site.write(
        "config/bounce-rules.toml",
        b"[[rules]]\nname = \"partner-robot\"\nsays = \"auto-reply\"\nsubject = ['^frobnication']\n",
    );
    let differs = bridge.site.run(&["inbox", "reclassify"]).with_code(0).out;
    assert!(
        differs.contains("other") && differs.contains("auto-reply") && differs.contains("partner-robot"),
        "{differs}"
    );
    let id = shown["id"].to_string();
    let kept =
        || bridge.site.run(&["inbox", "show", &id, "--format", "json"]).json()["verdict"]["kind"].clone();
    assert_eq!(kept(), "other", "looking changes nothing");
    bridge.site.run(&["inbox", "reclassify", "--apply"]).with_code(0);
    assert_eq!(kept(), "auto-reply");
}
