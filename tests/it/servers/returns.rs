//! What real servers send back reaches `serve`, and has the consequence that the tenant wants: Postfix reports,
//! Dovecot's Sieve answers, a person writes; by Maildir, IMAP and LMTP.

use std::process::Command;

use aftercall::sink::Script;
use serde_json::Value;

use super::imap::{Imap, LOGIN};
use super::postfix::{BOUNCES, CRM, FULL, Postfix, STAFF};
use super::{User, free_port, need, text};
use crate::inbox::inbounds;
use crate::reconcile::{followed, noted};
use crate::support::{Relay, Site, TenantFile, call, header, parsed, until};

/// Whoever has no password may write to those whom Postfix knows, as on every server that takes mail.
const OPEN: &str = "smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination";

/// A line of main.cf: mails for the tenant go by LMTP to this port.
fn back_by_lmtp(port: u16) -> String {
    format!("transport_maps = inline:{{ acme.example.com=lmtp:inet:127.0.0.1:{port} }}")
}

/// A site that sends to an address through Postfix, with a mailbox and these keys in `[reactions]`.
fn site(postfix: &Postfix, recipient: &str, mailbox: &str, reactions: &str) -> Site {
    let recipient = format!("address = \"{recipient}\"");
    let person = format!("{STAFF}@crm.example.com");
    let reactions = format!("[reactions]\nalert = \"{person}\"\nforward = \"{person}\"\n{reactions}");
    let site = postfix.site(&TenantFile {
        recipient: &recipient,
        missing_ticket: &reactions,
        ..TenantFile::default()
    });
    site.write("config/aftercall.toml", format!("[[mailboxes]]\nname = \"back\"\n{mailbox}\n").as_bytes());
    site
}

/// The keys of a mailbox that is a Maildir of Postfix.
fn by_maildir(postfix: &Postfix) -> String {
    format!("maildir = \"{}\"\npoll = \"100ms\"", text(&postfix.mailbox(BOUNCES)))
}

/// Where the updates go, but for those that are to find a full mailbox.
fn crm() -> String {
    format!("{CRM}@crm.example.com")
}

/// What the inbox shows of the mails that came back, oldest first, once so many were judged.
fn judged(site: &Site, count: usize) -> Vec<Value> {
    let rows = until(&format!("{count} judged mails"), || {
        let rows = inbounds(site);
        (rows.iter().filter(|row| row.kind.is_some()).count() >= count).then_some(rows)
    });
    rows.iter().map(|row| row.as_json()).collect()
}

/// Asserts what a mail was judged to be, and by what proof it was tied to the session `call-1`.
#[track_caller]
fn is_about_the_call(shown: &Value, kind: &str, proof: &str) {
    let found = [&shown["verdict"]["kind"], &shown["proof"], &shown["session"]].map(|value| value.as_str());
    assert_eq!(found, [Some(kind), Some(proof), Some("call-1")], "{shown:#}");
}

#[test]
fn an_address_that_postfix_finds_unknown_after_it_took_the_mail_is_stopped_and_a_person_told() {
    let alias = format!("virtual_alias_maps = inline:{{ {}=gone@crm.example.com }}", crm());
    let postfix = Postfix::start_with("plain login", &alias);
    let site = site(&postfix, &crm(), &by_maildir(&postfix), "");
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let shown = judged(&site, 1).remove(0);
    is_about_the_call(&shown, "bounce", "envelope-sender");
    let failed = &shown["verdict"]["recipients"][0];
    assert_eq!((&failed["reason"], &failed["hard"]), (&"userunknown".into(), &true.into()), "{failed}");
    assert_eq!(followed(&shown), ["address-stopped", "held", "alerted"]);
    let alert = postfix.wait_for(STAFF, 1).remove(0);
    let said = parsed(&alert).body_text(0).unwrap().into_owned();
    assert!(said.contains(&format!("the mail to {} came back: 5.1.1 userunknown", crm())), "{said}");
    until("the alert's reply", || (site.states() == ["accepted", "held", "accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let stopped = site.run(&["inbox", "stopped", "--format", "json"]).with_code(0).json();
    assert_eq!(stopped[0]["address"], crm(), "not the address behind it: {stopped}");
}

/// The lines with which Dovecot takes mails by LMTP at this port.
fn lmtp(port: u16) -> String {
    let user = User::Any("dovecot").run(&["id", "-un"]);
    format!(
        "protocols = imap lmtp
service lmtp {{
  user = {}
  inet_listener lmtp {{
    port = {port}
  }}
}}
",
        user.trim()
    )
}

#[test]
fn a_mail_for_a_full_mailbox_goes_out_again_and_arrives_once_there_is_room() {
    need("dovecot-lmtpd", &["/usr/lib/dovecot/lmtp"]);
    let port = free_port();
    let imap = Imap::start_with(None, &lmtp(port));
    let postfix = Postfix::start_with("plain login", &back_by_lmtp(port));
    // Only IDLE tells of the report in time.
    let mailbox = format!(
        "poll = \"9m\"\n[mailboxes.imap]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nuser = \"{}\"\n\
         password = {{ file = \"imap\" }}\ndone_folder = \"Done\"",
        imap.plain, LOGIN.0
    );
    let site = site(&postfix, FULL, &mailbox, "soft_wait = \"1s\"\nsoft_times = 9");
    site.write("config/imap", LOGIN.1.as_bytes());
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let shown = judged(&site, 1).remove(0);
    is_about_the_call(&shown, "bounce", "envelope-sender");
    let failed = &shown["verdict"]["recipients"][0];
    assert_eq!((&failed["reason"], &failed["hard"]), (&"mailboxfull".into(), &false.into()), "{failed}");
    assert_eq!(followed(&shown), ["sent-again"]);
    let place = postfix.place("full");
    std::fs::write(&place, "").unwrap();
    let arrived = until("the mail in the mailbox", || {
        let mailbox = std::fs::read_to_string(&place).unwrap();
        mailbox.ends_with("\n\n").then_some(mailbox)
    });
    let rows = site.deliveries();
    assert!(rows.len() > 1 && rows[1].instead_of == Some(rows[0].id), "{rows:?}");
    let message_id = rows[0].message_id.as_deref().unwrap();
    assert!(arrived.contains(&format!("Message-ID: <{message_id}>")), "the same mail: {arrived}");
    until("the end of the deliveries", || {
        site.states().iter().all(|state| *state == "accepted").then_some(())
    });
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn an_update_too_large_for_the_server_behind_the_relay_goes_out_without_the_session_file() {
    let keywords = vec!["8BITMIME".to_owned(), "SIZE 40000".to_owned()];
    let behind = Relay::with(Script { keywords, ..Script::default() });
    let port = free_port();
    // The person's mails go there too, so an alert would be seen.
    let routes = format!(
        "transport_maps = inline:{{ acme.example.com=lmtp:inet:127.0.0.1:{port} crm.example.com=smtp:[127.0.0.1]:{} }}",
        behind.port()
    );
    let postfix = Postfix::start_with("plain login", &format!("{routes}\n#smtp unix - - n - - smtp"));
    let mailbox = format!("lmtp = {{ listen = \"127.0.0.1:{port}\" }}");
    let site = site(&postfix, &crm(), &mailbox, "");
    let serve = site.serve();
    let mut session = call(1, "7", 0);
    session["padding"] = "x".repeat(60_000).into();
    site.session("inbox/acme/call-1.json", &session);
    let shown = judged(&site, 1).remove(0);
    is_about_the_call(&shown, "bounce", "envelope-sender");
    assert_eq!(shown["verdict"]["recipients"][0]["reason"], "mesgtoobig", "{shown:#}");
    assert_eq!(followed(&shown), ["sent-smaller"]);
    until("the update", || (!behind.received().is_empty()).then_some(()));
    assert_eq!(serve.terminate(), 0);
    let update = behind.only();
    assert_eq!(update.recipient, crm());
    let mail = parsed(&update.message);
    assert!(mail.subject().unwrap().starts_with("[#7] Call 1"), "{:?}", mail.subject());
    assert_eq!(mail.attachments().count(), 0);
}

/// A Sieve script that answers everything.
const VACATION: &str = "require \"vacation\";\nvacation :subject \"On the beach\" \"Back on Monday.\";\n";

/// A line of main.cf for a gateway that drops what says that a program wrote a mail. Sieve neither answers such a mail
/// (RFC 3834, section 2) nor tells anybody that it rejected it.
const UNMARKED: &str =
    "lmtp_header_checks = regexp:{ { /^(Auto-Submitted|X-Auto-Response-Suppress):/ IGNORE } }";

/// A Dovecot that runs a Sieve script on what comes for the CRM, and the Postfix that both talk to, with these lines
/// behind main.cf.
fn with_sieve(script: &str, more: &str) -> (Imap, Postfix) {
    need("dovecot-lmtpd", &["/usr/lib/dovecot/lmtp"]);
    need("dovecot-sieve", &["/usr/bin/sievec"]);
    let port = free_port();
    let route = format!("transport_maps = inline:{{ {}=lmtp:inet:127.0.0.1:{port} }}", crm());
    let postfix = Postfix::start_with("plain login", &format!("{route}\n{OPEN}\n{more}"));
    let sieve = format!(
        "submission_host = 127.0.0.1:{}
postmaster_address = postmaster@crm.example.com
protocol lmtp {{
  mail_plugins = sieve
}}
plugin {{
  sieve = file:%h/away.sieve
}}
",
        postfix.port
    );
    let imap = Imap::start_with(None, &(lmtp(port) + &sieve));
    std::fs::write(imap.path("away.sieve"), script).unwrap();
    (imap, postfix)
}

#[test]
fn a_vacation_answer_of_a_sieve_script_is_noted_with_its_session() {
    let (_imap, postfix) = with_sieve(VACATION, UNMARKED);
    let site = site(&postfix, &crm(), &by_maildir(&postfix), "");
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let shown = judged(&site, 1).remove(0);
    is_about_the_call(&shown, "auto-reply", "envelope-sender");
    assert_eq!(shown["verdict"]["sub"], "vacation", "{shown:#}");
    assert_eq!(noted(&shown), "there is nothing to do");
    assert_eq!(serve.terminate(), 0);
    assert_eq!(site.states(), ["accepted"]);
}

#[test]
fn a_sieve_script_does_not_answer_an_update_as_it_goes_out() {
    let (imap, postfix) = with_sieve(VACATION, "");
    let site = site(&postfix, &crm(), &by_maildir(&postfix), "");
    let file = site.session("call-1.json", &call(1, "7", 0));
    site.run(&["send", &file]).with_code(0);
    let log = until("Sieve's decision", || {
        let log = super::logs(&imap.path(""));
        log.contains("stored mail into mailbox 'INBOX'").then_some(log)
    });
    assert!(log.contains("discarding vacation response to auto-submitted message"), "{log}");
    assert_eq!(postfix.stored(BOUNCES).len(), 0);
}

#[test]
fn an_update_that_a_sieve_script_rejects_is_held_and_a_person_told() {
    let (_imap, postfix) = with_sieve("require \"reject\";\nreject \"This desk is closed.\";\n", UNMARKED);
    let site = site(&postfix, &crm(), &by_maildir(&postfix), "");
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let shown = judged(&site, 1).remove(0);
    // RFC 5429, section 2.2: who may not refuse within the dialogue sends a receipt.
    is_about_the_call(&shown, "read-receipt", "envelope-sender");
    assert_eq!(shown["verdict"]["sub"], "sieve-reject", "{shown:#}");
    assert_eq!(followed(&shown), ["held", "alerted"]);
    let alert = postfix.wait_for(STAFF, 1).remove(0);
    let said = parsed(&alert).body_text(0).unwrap().into_owned();
    assert!(said.contains("This desk is closed."), "{said}");
    until("the alert's reply", || (site.states() == ["accepted", "held", "accepted"]).then_some(()));
    assert_eq!(serve.terminate(), 0);
}

#[test]
fn a_persons_reply_that_comes_by_smtp_is_handed_on() {
    let source = need("postfix", &["/usr/sbin/smtp-source"]);
    let postfix = Postfix::start_with("plain login", OPEN);
    let site = site(&postfix, &crm(), &by_maildir(&postfix), "");
    let serve = site.serve();
    site.session("inbox/acme/call-1.json", &call(1, "7", 0));
    let update = postfix.wait_for(CRM, 1).remove(0);
    let update = parsed(&update);
    let (to, message_id) = (header(&update, "Reply-To"), header(&update, "Message-ID"));
    let to = to.rsplit('<').next().unwrap().trim_end_matches('>');
    let reply = site.write(
        "reply.eml",
        format!(
            "From: Jo <jo@elsewhere.example>\nTo: {to}\nSubject: Re: {}\nMessage-ID: <1@elsewhere.example>\n\
             In-Reply-To: {message_id}\nDate: Sat, 10 Jan 2026 11:00:00 +0000\n\nPlease call back.\n\n\
             On Saturday you wrote:\n> Call 1\n",
            update.subject().unwrap()
        )
        .as_bytes(),
    );
    let server = format!("127.0.0.1:{}", postfix.port);
    let arguments = ["-f", "jo@elsewhere.example", "-t", to, "-F", text(&reply), &server];
    assert!(Command::new(source).args(arguments).status().unwrap().success());
    let shown = judged(&site, 1).remove(0);
    is_about_the_call(&shown, "reply", "reply-to");
    assert_eq!(followed(&shown), ["forwarded"]);
    let forwarded = postfix.wait_for(STAFF, 1).remove(0);
    let forwarded = parsed(&forwarded);
    assert_eq!(header(&forwarded, "Reply-To"), "jo@elsewhere.example");
    let words = forwarded.body_text(0).unwrap();
    assert!(words.contains("Please call back.") && !words.contains("> Call 1"), "{words}");
    assert_eq!(serve.terminate(), 0);
}
