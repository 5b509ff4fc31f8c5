//! What a real Postfix sends back when it took a mail and cannot keep it.

use mail_parser::MimeHeaders;

use super::postfix::{BOUNCES, FULL, Postfix};
use crate::support::{TenantFile, call, header, parsed};

/// The value of a field of a delivery report (RFC 3464, section 2.1); empty where it is not there.
fn field<'r>(report: &'r str, name: &str) -> &'r str {
    let lines = report.lines().filter_map(|line| line.split_once(':'));
    let mut values =
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    values.next().unwrap_or_default()
}

#[test]
fn a_full_mailbox_comes_back_as_a_report_that_names_the_delivery() {
    let postfix = Postfix::start("plain login");
    let recipient = format!("address = \"{FULL}\"");
    let site = postfix.site(&TenantFile { recipient: &recipient, ..TenantFile::default() });
    let file = site.session("call-1.json", &call(1, "7", 0));
    // Whoever took a mail can still find that there is no room for it.
    site.run(&["send", &file]).with_code(0);
    let message_id = site.deliveries().remove(0).message_id.unwrap();
    let bounce = postfix.wait_for(BOUNCES, 1).remove(0);
    let bounce = parsed(&bounce);
    assert_eq!(header(&bounce, "Return-Path"), "<>");
    let sender = header(&bounce, "X-Original-To");
    let token =
        sender.strip_prefix(&format!("{BOUNCES}+")).and_then(|rest| rest.strip_suffix("@acme.example.com"));
    let token = token.unwrap_or_else(|| panic!("{sender}"));
    assert!(!message_id.contains(token), "who reads the Message-ID does not know where bounces go");
    let is_report = |part: &&mail_parser::MessagePart<'_>| {
        part.content_type().is_some_and(|kind| kind.subtype() == Some("delivery-status"))
    };
    let report = bounce.parts.iter().find(is_report).unwrap();
    let report = String::from_utf8_lossy(report.contents()).into_owned();
    assert_eq!((field(&report, "Action"), field(&report, "Status")), ("failed", "5.2.2"), "{report}");
    assert!(field(&report, "Final-Recipient").ends_with(FULL), "{report}");
    // Headers or more come back, and with them the Message-ID.
    let returned = String::from_utf8_lossy(bounce.raw_message()).into_owned();
    assert!(returned.contains(&format!("Message-ID: <{message_id}>")), "{returned}");
    // RFC 3461, section 4.4: the ENVID of MAIL comes back; ours is the sender's token.
    assert_eq!(field(&report, "Original-Envelope-Id"), token, "{report}");
}
