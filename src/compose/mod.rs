//! From rendered texts to the bytes on the wire: one message, one recipient, one envelope.
//!
//! The same input gives the same bytes. Bodies are quoted-printable or base64, so the message is ASCII with CRLF
//! line ends and short lines, whatever the session holds; the session's own bytes are attached untouched.

mod encoding;

use std::time::SystemTime;

use jiff::Timestamp;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{
    ContentDisposition, ContentTransferEncoding, ContentType, HeaderName, HeaderValue,
};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use memchr::{memchr, memchr_iter, memmem};

use self::encoding::{base64, base64_length, quoted_printable};
use crate::address::{Address, BadAddress};
use crate::config::profile::{ReplyTo, fill};
use crate::config::tenant::Tenant;
use crate::ids::{Digest, SessionKey, SessionName};
use crate::plan::Mail;
use crate::template::Rendered;
use crate::token::{Place, TokenKey};

/// A message as the outbox keeps it and the wire carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Without angle brackets.
    pub message_id: String,
    /// The envelope's sender, with its token.
    pub envelope_from: Address,
    /// The envelope's only recipient.
    pub recipient: Address,
    /// The whole message, CRLF line ends.
    pub wire: Vec<u8>,
    /// How many octets of it stand behind the attachment; none where it has none.
    pub tail: Option<usize>,
}

/// What a message is made of.
#[derive(Debug)]
pub struct Parts<'p> {
    /// Whose session.
    pub session: &'p SessionKey,
    /// The session file's bytes.
    pub raw: &'p [u8],
    /// Their digest.
    pub digest: &'p Digest,
    /// The plan.
    pub mail: &'p Mail,
    /// To whom.
    pub recipient: &'p Address,
    /// The texts.
    pub rendered: &'p Rendered,
    /// Whether the session file is attached.
    pub attach: bool,
}

/// Why a message could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The envelope sender with its token is no address.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A header's value cannot be written.
    #[error("the message for {recipient} cannot be written")]
    Message {
        /// To whom it was.
        recipient: Address,
        /// The builder's reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Composed {
    /// The message before and behind its attachment, whose bytes are known from the session file; the whole message
    /// and nothing where it has none.
    pub fn around_attachment(&self, raw: &[u8]) -> (&[u8], Option<&[u8]>) {
        let Some(tail) = self.tail else { return (&self.wire, None) };
        let end = self.wire.len().saturating_sub(tail);
        let start = end.saturating_sub(base64_length(raw.len()));
        (&self.wire[..start], Some(&self.wire[end..]))
    }
}

/// Puts a message together again: its head and, where it has an attachment, that and the tail behind it.
pub fn join_attachment(mut head: Vec<u8>, raw: Option<Vec<u8>>, tail: Option<Vec<u8>>) -> Vec<u8> {
    if let (Some(raw), Some(tail)) = (raw, tail) {
        head.extend(base64(&raw));
        head.extend(tail);
    }
    head
}

/// The name of the attachment: `call-41207.json`.
pub fn attachment_name(session: SessionName) -> String {
    format!("{session}.json")
}

/// Whether a session file of `raw_bytes` octets fits into a message of at most `limit`.
fn fits(raw_bytes: usize, limit: u64) -> bool {
    // Base64 in lines of 76 makes 78 octets out of 57; the bodies and headers get what is left, at least this.
    const REST: u64 = 200_000;
    let encoded = (raw_bytes as u64).div_ceil(57) * 78;
    encoded + REST.min(limit / 2) <= limit
}

/// Whether the tenant's CRM takes a session file of `raw_bytes` octets as an attachment.
pub fn attaches(tenant: &Tenant, raw_bytes: usize) -> bool {
    let most = tenant.profile.file_bytes.unwrap_or(u64::MAX);
    raw_bytes as u64 <= most && fits(raw_bytes, tenant.limits.message_bytes)
}

/// Makes the message of one delivery.
pub fn compose(
    parts: &Parts<'_>,
    tenant: &Tenant,
    key: &TokenKey,
    now: Timestamp,
) -> Result<Composed, ComposeError> {
    let recipient = parts.recipient.clone();
    let unique = Digest::of_parts(&[&parts.digest.0, b"email", recipient.as_str().as_bytes()]);
    let token = |place| key.sign(parts.session, &unique, place);
    let bounces = &tenant.sender.bounces;
    let message_token = token(Place::MessageId);
    let message_id = format!("{message_token}@{}", tenant.sender.address.domain());
    let envelope_from = bounces.tagged(&token(Place::EnvelopeSender))?;
    let reply_to = match tenant.profile.reply_to {
        ReplyTo::Absent => None,
        ReplyTo::Token => Some(bounces.tagged(&token(Place::ReplyTo))?),
    };
    let message = message(parts, tenant, &message_token, &envelope_from, reply_to.as_ref(), now)
        .map_err(|source| ComposeError::Message { recipient: recipient.clone(), source })?;
    let wire = message.formatted();
    // The attachment is the last part: what stands behind it is the end of the whole.
    let end = memmem::rfind(&wire, b"\r\n--").filter(|_| parts.attach);
    let tail = end.map(|end| wire.len() - end);
    Ok(Composed { message_id, envelope_from, recipient, wire, tail })
}

fn message(
    parts: &Parts<'_>,
    tenant: &Tenant,
    token: &str,
    envelope_from: &Address,
    reply_to: Option<&Address>,
    now: Timestamp,
) -> Result<Message, Box<dyn std::error::Error + Send + Sync>> {
    let profile = &tenant.profile;
    let texts = texts(parts, tenant, token);
    let mailbox =
        |name: Option<&String>, address: &Address| -> Result<Mailbox, lettre::address::AddressError> {
            Ok(Mailbox::new(name.cloned(), address.as_str().parse()?))
        };
    // The builder would read it from the headers that it has just written.
    let envelope =
        Envelope::new(Some(envelope_from.as_str().parse()?), vec![parts.recipient.as_str().parse()?])?;
    let mut builder = Message::builder()
        .envelope(envelope)
        .from(mailbox(tenant.sender.name.as_ref(), &tenant.sender.address)?)
        .to(mailbox(None, parts.recipient)?)
        .subject(texts.subject)
        .date(SystemTime::from(now))
        .message_id(Some(format!("<{token}@{}>", tenant.sender.address.domain())));
    if let Some(address) = reply_to {
        builder = builder.reply_to(mailbox(tenant.sender.name.as_ref(), address)?);
    }
    // RFC 5322, section 3.6.4: the parent alone in In-Reply-To, the whole thread in References.
    if let Some(parent) = parts.mail.thread.last() {
        builder = builder.in_reply_to(format!("<{parent}>"));
    }
    let references = references(parts, tenant);
    if !references.is_empty() {
        builder = builder.references(references);
    }
    // RFC 3834, section 5: what a program sends says so, in the form that the CRM does not throw away.
    if let Some(value) = profile.auto_submitted {
        builder = builder.raw_header(header("Auto-Submitted", value)?);
    }
    if profile.suppress_auto_response {
        builder = builder.raw_header(header("X-Auto-Response-Suppress", "All")?);
    }
    let alternatives = MultiPart::alternative()
        .boundary(format!("=_a_{token}"))
        .singlepart(text_part(ContentType::TEXT_PLAIN, &texts.text));
    let alternatives = match &texts.html {
        Some(html) => alternatives.singlepart(text_part(ContentType::TEXT_HTML, html)),
        None => alternatives,
    };
    let mixed = MultiPart::mixed().boundary(format!("=_m_{token}")).multipart(alternatives);
    let mixed = if parts.attach { mixed.singlepart(attachment(parts)?) } else { mixed };
    Ok(builder.multipart(mixed)?)
}

/// The texts of a mail as the CRM may read them.
struct Texts {
    subject: String,
    text: String,
    /// None where it is larger than the CRM takes.
    html: Option<String>,
}

/// What the profile says of texts: the ticket's name in its places, and nobody else's words that name a ticket or act.
fn texts(parts: &Parts<'_>, tenant: &Tenant, token: &str) -> Texts {
    let (profile, rendered) = (&tenant.profile, parts.rendered);
    let mut values = tenant.parameters.clone();
    values.insert("token".to_owned(), token.to_owned());
    let filled = |pattern: &String| parts.mail.ticket.as_ref().map(|ticket| fill(pattern, &values, ticket));
    let subject = profile.acts.subject(&rendered.subject);
    // Where several tokens stand in a subject, a CRM takes the leftmost: the profile's is the first.
    let (before, after) = profile.subject.as_deref().map_or(("", ""), |pattern| {
        pattern.split_once("{text}").map_or((pattern, ""), |(before, after)| (before.trim_end(), after))
    });
    let around = [before, after].map(|part| filled(&part.to_owned()).unwrap_or_default());
    let subject = format!("{} {subject}{}", around[0], around[1]).trim().to_owned();
    let token = profile.body.as_ref().and_then(filled);
    let most = profile.text_characters.unwrap_or(usize::MAX);
    let room = most.saturating_sub(token.as_ref().map_or(0, |token| token.chars().count() + 2));
    let mut text = cut(&profile.acts.text(&rendered.text), room);
    let mut html = profile.acts.html(&rendered.html).into_owned();
    if let Some(token) = token {
        text = format!("{}\n\n{token}\n", text.trim_end());
        let end = html.rfind("</body>").unwrap_or(html.len());
        html.insert_str(end, &format!("<p>{}</p>\n", handlebars::html_escape(&token)));
    }
    let html = Some(html).filter(|html| profile.text_characters.is_none() || html.chars().count() <= most);
    Texts { subject, text, html }
}

/// A text of at most so many characters; where lines are left out, the last one says so.
fn cut(text: &str, most: usize) -> String {
    const MORE: &str = "\n[...]\n";
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let end = text.char_indices().nth(most.saturating_sub(MORE.len())).map_or(text.len(), |(at, _)| at);
    let kept = text[..end].rfind('\n').map_or(&text[..end], |line| &text[..line]);
    format!("{kept}{MORE}")
}

fn references(parts: &Parts<'_>, tenant: &Tenant) -> String {
    let ticket = parts.mail.ticket.as_ref();
    let address = tenant.profile.reference.as_ref().zip(ticket);
    let address = address.map(|(pattern, ticket)| fill(pattern, &tenant.parameters, ticket));
    let thread = parts.mail.thread.iter().map(|id| format!("<{id}>"));
    address.into_iter().chain(thread).collect::<Vec<_>>().join(" ")
}

fn header(
    name: &'static str,
    value: &str,
) -> Result<HeaderValue, lettre::message::header::InvalidHeaderName> {
    Ok(HeaderValue::new(HeaderName::new_from_ascii(name.to_owned())?, value.to_owned()))
}

/// Quoted-printable where most is ASCII, base64 where it would grow threefold.
fn text_part(kind: ContentType, text: &str) -> SinglePart {
    let wide = text.bytes().filter(|byte| !byte.is_ascii()).count();
    let (octets, encoding) = if wide * 5 > text.len() {
        (base64(text.replace('\n', "\r\n").as_bytes()), ContentTransferEncoding::Base64)
    } else {
        (quoted_printable(text), ContentTransferEncoding::QuotedPrintable)
    };
    SinglePart::builder().header(kind).body(Body::dangerous_pre_encoded(octets, encoding))
}

fn attachment(parts: &Parts<'_>) -> Result<SinglePart, Box<dyn std::error::Error + Send + Sync>> {
    let body = Body::dangerous_pre_encoded(base64(parts.raw), ContentTransferEncoding::Base64);
    let disposition = ContentDisposition::attachment(&attachment_name(parts.session.name));
    Ok(SinglePart::builder().header(ContentType::parse("application/json")?).header(disposition).body(body))
}

/// A message that may be given to an SMTP server, or why it must not. Bare CR or LF lets one message be read as two
/// (SMTP smuggling), and RFC 5321, section 4.5.3.1.6 limits a line to 998 octets.
pub fn safe_text(wire: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(wire).map_err(|_| "the message is not UTF-8")?;
    if !text.ends_with("\r\n") {
        return Err("the message does not end in CRLF");
    }
    if memchr(0, wire).is_some() {
        return Err("the message has a NUL");
    }
    let (mut line, mut lines) = (0, 0);
    for at in memchr_iter(b'\n', wire) {
        if at == 0 || wire[at - 1] != b'\r' {
            return Err("the message has a bare LF");
        }
        if at - line > 999 {
            return Err("the message has a line of more than 998 octets");
        }
        (line, lines) = (at + 1, lines + 1);
    }
    if memchr_iter(b'\r', wire).count() != lines {
        return Err("the message has a bare CR");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    use super::*;
    use crate::config::profile::{Profile, SHIPPED};
    use crate::config::tenant::{Known, Overrides, parse};
    use crate::ids::Kind;
    use crate::plan::Target;

    fn tenant(profile: &str) -> Tenant {
        let source = format!(
            "[sender]\naddress = \"bridge@example.com\"\nname = \"Kundendienst Köln\"\n[recipient]\naddress = \"crm@example.com\"\n\
             [profile]\n{profile}\n[relay]\nhost = \"r\"\n"
        );
        let profiles = SHIPPED.iter().map(|(name, source)| {
            ((*name).to_owned(), Profile::parse(name, Path::new(name), source).unwrap())
        });
        let known = Known { profiles: profiles.collect(), ..Known::default() };
        parse("t", Path::new("t"), &source, Path::new("/"), &known, &Overrides::default()).unwrap()
    }

    fn mail(thread: &[&str]) -> Mail {
        Mail {
            ticket: Some("10482".into()),
            ticket_url: None,
            target: Target::Email("crm@example.com".parse().unwrap()),
            due: Timestamp::UNIX_EPOCH,
            waits_for: "",
            hold: None,
            supersedes: vec![],
            thread: thread.iter().map(|id| (*id).to_owned()).collect(),
            follows: None,
        }
    }

    fn composed(tenant: &Tenant, mail: &Mail, raw: &[u8], subject: &str, text: &str) -> Composed {
        let session = SessionKey {
            tenant: "t".into(),
            instance: "t".into(),
            name: SessionName { kind: Kind::Call, number: 41207 },
        };
        let rendered = Rendered {
            language: "en".into(),
            subject: subject.into(),
            text: text.into(),
            html: format!("<p>{text}</p>"),
        };
        let parts = Parts {
            session: &session,
            raw,
            digest: &Digest::of(raw),
            mail,
            recipient: &"crm@example.com".parse().unwrap(),
            rendered: &rendered,
            attach: true,
        };
        compose(&parts, tenant, &TokenKey::new(b"k", "t"), Timestamp::UNIX_EPOCH).unwrap()
    }

    fn field<'m>(message: &'m mail_parser::Message<'_>, name: &'static str) -> Option<&'m str> {
        message.header_raw(name).map(str::trim)
    }

    #[test]
    fn a_message_carries_token_thread_marks_and_the_untouched_file() {
        let raw = b"{\n  \"id\": 41207,\r\n \"x\": \"\xc3\xa4\"\n}\n\n";
        let tenant = tenant("name = \"rt\"\nvalues = { rtname = \"rt.example.com\" }");
        let composed =
            composed(&tenant, &mail(&["first@x", "last@x"]), raw, "Call 41207: Finished", "Grüße\n.\nend");
        let message = MessageParser::default().parse(&composed.wire).unwrap();
        assert_eq!(message.subject(), Some("[rt.example.com #10482] Call 41207: Finished"));
        assert_eq!(field(&message, "Subject"), message.subject(), "a plain subject is not encoded");
        assert_eq!(message.message_id(), Some(composed.message_id.as_str()));
        assert_eq!(field(&message, "In-Reply-To"), Some("<last@x>"));
        assert_eq!(field(&message, "References"), Some("<first@x> <last@x>"));
        assert_eq!(field(&message, "Auto-Submitted"), Some("auto-generated"));
        assert_eq!(field(&message, "X-Auto-Response-Suppress"), Some("All"));
        assert_eq!(field(&message, "Reply-To"), None);
        assert_eq!(field(&message, "Precedence"), None);
        assert_eq!(message.from().unwrap().first().unwrap().name(), Some("Kundendienst Köln"));
        assert_eq!(message.body_text(0).unwrap().replace("\r\n", "\n"), "Grüße\n.\nend");
        let file = message.attachment(0).unwrap();
        assert_eq!((file.attachment_name(), file.contents()), (Some("call-41207.json"), &raw[..]));
        assert!(composed.envelope_from.as_str().starts_with("bridge+cvsn-"), "{}", composed.envelope_from);
        assert!(composed.message_id.starts_with("cvsn-") && composed.message_id.len() < 255);
    }

    #[test]
    fn each_profile_has_its_own_marks() {
        let (generic, redmine) = (tenant("name = \"generic\""), tenant("name = \"redmine\""));
        let generic = composed(&generic, &mail(&[]), b"{}", "S", "t");
        let message = MessageParser::default().parse(&generic.wire).unwrap();
        let reply_to = field(&message, "Reply-To").unwrap();
        assert!(reply_to.contains("bridge+cvsn-"), "{reply_to}");
        assert!(
            !reply_to.contains(generic.envelope_from.as_str()),
            "readers of the mail know no bounce address"
        );
        let token = generic.envelope_from.local().rsplit('+').next().unwrap();
        assert_eq!(memmem::find(&generic.wire, token.as_bytes()), None);
        assert_eq!(field(&message, "References"), None);
        let redmine = composed(&redmine, &mail(&["m@x"]), b"{}", "S", "t");
        let message = MessageParser::default().parse(&redmine.wire).unwrap();
        assert_eq!(field(&message, "Auto-Submitted"), Some("auto-notified"));
        assert_eq!(field(&message, "References"), Some("<redmine.issue-10482.1@aftercall.invalid> <m@x>"));
    }

    #[test]
    fn a_subject_carries_the_signed_token_where_the_profile_has_a_place_for_it() {
        let mut tenant = tenant("name = \"generic\"");
        tenant.profile.subject = Some("[#{ticket}] {text} ({token})".to_owned());
        let composed = composed(&tenant, &mail(&[]), b"{}", "Call 7", "t");
        let message = MessageParser::default().parse(&composed.wire).unwrap();
        let token = composed.message_id.split('@').next().unwrap();
        assert_eq!(message.subject(), Some(&*format!("[#10482] Call 7 ({token})")));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let tenant = tenant("name = \"generic\"");
        let make = |raw: &[u8]| composed(&tenant, &mail(&[]), raw, "S", "t");
        assert_eq!(make(b"{}"), make(b"{}"));
        assert_ne!(make(b"{}").message_id, make(b"{ }").message_id);
    }

    #[test]
    fn a_file_that_does_not_fit_is_known_before_rendering() {
        assert!(fits(2_000_000, 4_000_000));
        assert!(!fits(3_000_000, 4_000_000));
        assert!(fits(1_000, 10_000));
        assert!(!fits(10_000, 10_000));
    }

    #[test]
    fn what_a_server_could_misread_is_found() {
        let long = [b"a".repeat(999), b"\r\n".to_vec()].concat();
        let table: &[(&[u8], bool)] = &[
            (b"A: b\r\n\r\n.\r\nc\r\n", true),
            (b"a\r\n.\nb\r\n", false),
            (b"a\r\n.\rb\r\n", false),
            (b"a\r\r\n", false),
            (b"a\n\r\n", false),
            (b"a", false),
            (b"a\n", false),
            (b"\xc3\xa4\r\n", true),
            (b"\xe4\r\n", false),
            (b"a\0\r\n", false),
            (&long, false),
            (&long[1..], true),
        ];
        for (wire, safe) in table {
            assert_eq!(safe_text(wire).is_ok(), *safe, "{:?}", String::from_utf8_lossy(wire));
        }
    }

    /// Compiling all profiles takes longer than all else that a case does.
    static GENERIC: std::sync::LazyLock<Tenant> = std::sync::LazyLock::new(|| tenant("name = \"generic\""));

    proptest! {
        #[test]
        fn no_text_makes_an_unsafe_message_or_another_header(subject in ".{0,120}", text in "(?s).{0,2000}", raw in proptest::collection::vec(any::<u8>(), 0..600)) {
            let rendered = crate::template::clean(subject).replace('\n', " ");
            let composed = composed(&GENERIC, &mail(&[]), &raw, &rendered, &crate::template::clean(text));
            prop_assert!(safe_text(&composed.wire).is_ok_and(str::is_ascii));
            let (head, tail) = composed.around_attachment(&raw);
            prop_assert!(tail.is_some());
            let whole = join_attachment(head.to_vec(), Some(raw.clone()), tail.map(<[u8]>::to_vec));
            prop_assert_eq!(&whole, &composed.wire);
            let message = MessageParser::default().parse(&composed.wire).unwrap();
            let names: Vec<_> = message.headers().iter().map(mail_parser::Header::name).collect();
            prop_assert_eq!(names, ["From", "To", "Subject", "Date", "Message-ID", "Reply-To", "Auto-Submitted",
                "X-Auto-Response-Suppress", "MIME-Version", "Content-Type"]);
            prop_assert_eq!(message.attachment(0).unwrap().contents(), &raw[..]);
        }
    }
}
