//! The walk through the parts of a mail.

use std::sync::LazyLock;

use mail_parser::decoders::html::html_to_text;
use mail_parser::{
    ContentType, HeaderName, HeaderValue, Message, MessageParser, MessagePart, MimeHeaders, PartType,
};

use super::headers::{Headers, cut};
use super::{MAX_DEPTH, MAX_RECIPIENTS, MAX_TEXT_OCTETS, Mail, Problem, provider, quoted, report, tidy};

/// Header values as text with their words decoded; what says how a part is built, as its parts. Of `Received` and of
/// signatures only the name is kept: nobody looks at them, and they are most of many headers.
static PARSER: LazyLock<MessageParser> = LazyLock::new(|| {
    let ignored = [
        HeaderName::Received,
        HeaderName::DkimSignature,
        HeaderName::ArcSeal,
        HeaderName::ArcMessageSignature,
        HeaderName::ArcAuthenticationResults,
    ];
    let parser = MessageParser::new().with_mime_headers().default_header_text();
    ignored.into_iter().fold(parser, MessageParser::ignore_header)
});

/// What is put together at the end of the walk.
#[derive(Default)]
struct Texts {
    plain: String,
    html: String,
    /// Texts that are sent along as files: they may hold a report, but nobody reads them.
    files: Vec<String>,
}

/// Reads a mail.
pub(super) fn read(raw: &[u8]) -> Mail {
    let mut mail = Mail::default();
    let bytes = tidy::tidy(raw, &mut mail);
    let Some(message) = PARSER.parse(&*bytes) else {
        // The parser makes nothing of a mail without any field.
        mail.text = cut(&String::from_utf8_lossy(&bytes), MAX_TEXT_OCTETS).to_owned();
        finish(&mut mail, &Texts::default());
        return mail;
    };
    if let Some(root) = message.parts.first() {
        mail.headers = headers(root);
        let kind = root.content_type().and_then(|kind| kind.attribute("report-type"));
        mail.report_type = kind.map(str::to_ascii_lowercase);
    }
    let mut texts = Texts::default();
    walk(&message, 0, &mut mail, &mut texts);
    finish(&mut mail, &texts);
    mail
}

/// The fields of a header block that stands alone.
pub(super) fn header_block(bytes: &[u8]) -> Headers {
    let message = PARSER.parse_headers(bytes);
    message.as_ref().and_then(|message| message.parts.first()).map(headers).unwrap_or_default()
}

fn headers(part: &MessagePart<'_>) -> Headers {
    let mut headers = Headers::default();
    for header in &part.headers {
        let name = header.name.as_str();
        match &header.value {
            HeaderValue::Text(text) => headers.push(name, text),
            HeaderValue::TextList(list) => headers.push(name, &list.join(" ")),
            HeaderValue::ContentType(kind) => headers.push(name, &type_of(kind)),
            _ => headers.push(name, ""),
        }
    }
    headers
}

fn type_of(kind: &ContentType<'_>) -> String {
    let mut text = kind.ctype().to_ascii_lowercase();
    if let Some(subtype) = kind.subtype() {
        text.push('/');
        text.push_str(&subtype.to_ascii_lowercase());
    }
    text
}

fn walk(message: &Message<'_>, depth: usize, mail: &mut Mail, texts: &mut Texts) {
    for (at, part) in message.parts.iter().enumerate() {
        if at > 0 && part.headers.iter().any(|header| header.name == HeaderName::MessageId) {
            // No blank line parts the fields of the part from those of the message in it.
            returned(headers(part), mail);
        }
        let kind = part.content_type().map(type_of).unwrap_or_default();
        match &part.body {
            PartType::Message(inner) => nested(inner, depth, mail),
            PartType::Multipart(_) => {}
            PartType::Text(text) if !machine(&kind, text, mail) => text_part(part, text, texts),
            PartType::Html(html) if !machine(&kind, html, mail) => push(&mut texts.html, html),
            PartType::Binary(bytes) | PartType::InlineBinary(bytes) if kind.starts_with("message/") => {
                machine(&kind, &String::from_utf8_lossy(bytes), mail);
            }
            _ => {}
        }
    }
}

fn text_part(part: &MessagePart<'_>, text: &str, texts: &mut Texts) {
    let is_file = part.content_disposition().is_some_and(ContentType::is_attachment);
    if !is_file {
        push(&mut texts.plain, text);
    } else if texts.files.len() < 4 {
        texts.files.push(cut(text, MAX_TEXT_OCTETS).to_owned());
    }
}

fn push(texts: &mut String, text: &str) {
    let room = (MAX_TEXT_OCTETS + 1).saturating_sub(texts.len());
    texts.push_str(cut(text, room));
    texts.push('\n');
}

/// Takes a part that is written for programs. False where it is none.
fn machine(kind: &str, text: &str, mail: &mut Mail) -> bool {
    match kind {
        "message/delivery-status" | "message/global-delivery-status" | "text/delivery-status" => {
            take_report(report::delivery(text), mail);
            if memchr::memmem::find(text.as_bytes(), b"\n--").is_some() {
                // A wrong boundary: the next part is still in this one.
                quoted::find(text).into_iter().for_each(|quoted| returned(quoted.headers, mail));
            }
        }
        "message/feedback-report" => mail.feedback = mail.feedback.take().or_else(|| report::feedback(text)),
        "message/disposition-notification" | "message/global-disposition-notification" => {
            mail.disposition = mail.disposition.take().or_else(|| report::disposition(text));
        }
        // RFC 6522, section 4, RFC 6533, section 4.3; and a message that is no message to the parser.
        "text/rfc822-headers"
        | "message/rfc822-headers"
        | "message/global-headers"
        | "message/rfc822"
        | "message/global"
        | "message/partial" => returned(header_block(text.as_bytes()), mail),
        _ => return false,
    }
    true
}

fn take_report(report: Option<report::DeliveryReport>, mail: &mut Mail) {
    let Some(mut report) = report else { return };
    let known: usize = mail.reports.iter().map(|report| report.recipients.len()).sum();
    if known + report.recipients.len() > MAX_RECIPIENTS {
        mail.note(Problem::TooManyRecipients);
        report.recipients.truncate(MAX_RECIPIENTS.saturating_sub(known));
    }
    mail.reports.push(report);
}

fn returned(headers: Headers, mail: &mut Mail) {
    let is_better = match &mail.returned {
        None => !headers.is_empty(),
        Some(known) => known.message_id().is_none() && headers.message_id().is_some(),
    };
    if is_better {
        mail.returned = Some(headers);
    }
}

/// A message within the mail: what is returned; or, where the mail itself reports nothing, a report that somebody
/// forwarded or wrapped.
fn nested(inner: &Message<'_>, depth: usize, mail: &mut Mail) {
    if depth >= MAX_DEPTH {
        mail.note(Problem::TooDeep);
        return;
    }
    let mut within = Mail::default();
    let mut texts = Texts::default();
    walk(inner, depth + 1, &mut within, &mut texts);
    if inner.parts.first().is_none_or(|root| root.headers.is_empty()) {
        // A blank line stands before the header.
        quoted::find(&texts.plain).into_iter().for_each(|quoted| returned(quoted.headers, mail));
    }
    let has_report = !within.reports.is_empty();
    if has_report && mail.reports.is_empty() {
        mail.note(Problem::NestedReport);
        within.reports.into_iter().for_each(|report| take_report(Some(report), mail));
        mail.returned = within.returned.or_else(|| mail.returned.take());
    } else if let Some(root) = inner.parts.first() {
        returned(headers(root), mail);
    }
    for problem in within.problems {
        mail.note(problem);
    }
}

/// Puts the texts together and looks into them for what should have been parts.
fn finish(mail: &mut Mail, texts: &Texts) {
    mail.text.push_str(&texts.plain);
    in_text(mail);
    let names_nobody = memchr::memchr(b'@', mail.text.as_bytes()).is_none();
    if !texts.html.is_empty() && mail.reports.is_empty() && names_nobody {
        mail.text.push_str(&html_to_text(&with_breaks(&texts.html)));
        in_text(mail);
    }
    for file in &texts.files {
        if mail.reports.is_empty() {
            fields(file, mail);
        }
        if mail.returned.is_none()
            && let Some(quoted) = quoted::find(file)
        {
            returned(quoted.headers, mail);
        }
    }
    if mail.text.len() > MAX_TEXT_OCTETS {
        mail.note(Problem::LongText);
        let end = cut(&mail.text, MAX_TEXT_OCTETS).len();
        mail.text.truncate(end);
    }
    if mail.returned.as_ref().is_none_or(|returned| returned.message_id().is_none())
        && let Some(id) = quoted::message_id(&mail.text)
    {
        let id = id.to_owned();
        mail.returned.get_or_insert_default().push("Message-ID", &id);
    }
}

/// The reports, the notice and the returned message that stand in a text.
fn in_text(mail: &mut Mail) {
    let quoted = quoted::find(&mail.text).unwrap_or_default();
    returned(quoted.headers, mail);
    if let Some(start) = quoted.start {
        let rest = mail.text.split_off(start);
        if mail.reports.is_empty() && memchr::memmem::find(mail.text.as_bytes(), b"-Recipient:").is_none() {
            fields(&rest, mail);
        }
    }
    let text = std::mem::take(&mut mail.text);
    if mail.reports.is_empty() {
        fields(&text, mail);
    }
    if mail.feedback.is_none() && memchr::memmem::find(text.as_bytes(), b"Feedback-Type:").is_some() {
        mail.feedback = report::feedback(&text);
    }
    if mail.disposition.is_none() && memchr::memmem::find(text.as_bytes(), b"\nDisposition:").is_some() {
        mail.disposition = report::disposition_in(&text);
    }
    if mail.provider.is_none() {
        mail.provider = provider::read(&text);
    }
    mail.text = text;
}

/// Fields of a delivery report in a text whose MIME was broken.
fn fields(text: &str, mail: &mut Mail) {
    let is_likely = memchr::memmem::find(text.as_bytes(), b"Final-Recipient:").is_some()
        || memchr::memmem::find(text.as_bytes(), b"Original-Recipient:").is_some();
    if is_likely && let Some(report) = report::delivery(text) {
        mail.note(Problem::FieldsInText);
        take_report(Some(report), mail);
    }
}

/// HTML with line breaks where a block ends, since the library breaks lines only at `<br>` and `</p>`.
fn with_breaks(html: &str) -> String {
    const BLOCKS: [&str; 9] = ["td", "tr", "th", "div", "li", "h1", "h2", "h3", "pre"];
    let html = cut(html, 2 * MAX_TEXT_OCTETS);
    let mut out = String::with_capacity(html.len() + html.len() / 8);
    let mut rest = html;
    while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let name = tag[1..].trim_start_matches('/');
        let is_block = BLOCKS.iter().any(|block| {
            name.get(..block.len()).is_some_and(|start| start.eq_ignore_ascii_case(block))
                && !name[block.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
        });
        if is_block {
            out.push_str("<br>");
        }
        out.push('<');
        rest = &tag[1..];
    }
    out.push_str(rest);
    out
}
