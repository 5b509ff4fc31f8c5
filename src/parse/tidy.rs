//! The bytes before parsing: made regular where senders are careless, and cut where they are hostile.

use std::borrow::Cow;

use super::headers::field_of;
use super::{MAX_HEADER_OCTETS, MAX_OCTETS, MAX_PARTS, Mail, Problem};

/// The bytes for the parser: a header block, a blank line, a body of lines that end in LF or CRLF.
pub(super) fn tidy<'r>(raw: &'r [u8], mail: &mut Mail) -> Cow<'r, [u8]> {
    let mut bytes = raw;
    if bytes.len() > MAX_OCTETS {
        mail.note(Problem::TooLong);
        bytes = &bytes[..MAX_OCTETS];
    }
    bytes = without_preamble(bytes, mail);
    let bytes = with_line_ends(bytes, mail);
    let bytes = with_few_parts(bytes, mail);
    with_header_end(bytes, mail)
}

/// Byte order mark, blank lines and a mailbox's `From ` line stand before the header of mails that were saved.
fn without_preamble<'r>(bytes: &'r [u8], mail: &mut Mail) -> &'r [u8] {
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // White space at the very start is no folded line: there is nothing that it could go on from.
    rest = rest.trim_ascii_start();
    while rest.starts_with(b"From ") || rest.starts_with(b">From ") {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        rest = rest[end..].trim_ascii_start();
    }
    if rest.len() != bytes.len() {
        mail.note(Problem::Preamble);
    }
    rest
}

fn with_line_ends<'r>(bytes: &'r [u8], mail: &mut Mail) -> Cow<'r, [u8]> {
    let is_bare = memchr::memchr(b'\r', bytes).is_some() && memchr::memchr(b'\n', bytes).is_none();
    if !is_bare {
        return Cow::Borrowed(bytes);
    }
    mail.note(Problem::BareCr);
    Cow::Owned(bytes.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect())
}

/// A part begins with a boundary; it nests only with a `Content-Type`. So few such lines mean few parts, and
/// little depth.
fn with_few_parts<'r>(bytes: Cow<'r, [u8]>, mail: &mut Mail) -> Cow<'r, [u8]> {
    let (mut types, mut boundaries) = (0, 0);
    for at in memchr::memchr_iter(b'\n', &bytes) {
        match bytes.get(at + 1) {
            Some(b'-') if bytes.get(at + 2) == Some(&b'-') => boundaries += 1,
            Some(b'c' | b'C') if starts_with(&bytes[at + 1..], b"content-type") => types += 1,
            _ => continue,
        }
        if types > MAX_PARTS || boundaries > 8 * MAX_PARTS {
            mail.note(Problem::TooManyParts);
            return cut(bytes, at + 1);
        }
    }
    bytes
}

fn starts_with(bytes: &[u8], word: &[u8]) -> bool {
    bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn cut(bytes: Cow<'_, [u8]>, at: usize) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..at.min(bytes.len())]),
        Cow::Owned(mut bytes) => {
            bytes.truncate(at);
            Cow::Owned(bytes)
        }
    }
}

/// Sees that a blank line ends the header: the parser would take text without one for fields.
fn with_header_end<'r>(bytes: Cow<'r, [u8]>, mail: &mut Mail) -> Cow<'r, [u8]> {
    let mut at = 0;
    while at < bytes.len() {
        if at > MAX_HEADER_OCTETS {
            mail.note(Problem::LongHeader);
            return cut(bytes, at);
        }
        let (line, next) = line_at(&bytes, at);
        if line.is_empty() {
            return bytes;
        }
        let is_part_of_header = line.starts_with(b" ") || line.starts_with(b"\t") || is_field(line);
        // A broken line amid fields is passed over; before text it is the beginning of the text.
        let is_lone = || {
            let (after, _) = line_at(&bytes, next);
            at > 0 && (is_field(after) || after.starts_with(b" ") || after.starts_with(b"\t"))
        };
        if !is_part_of_header && !is_lone() {
            mail.note(if at == 0 { Problem::NoHeader } else { Problem::NoBlankLine });
            let mut owned = bytes.into_owned();
            owned.insert(at, b'\n');
            return Cow::Owned(owned);
        }
        at = next;
    }
    bytes
}

/// The line at an octet without its end, and where the next one begins.
fn line_at(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let rest = bytes.get(at..).unwrap_or_default();
    let (line, next) = match memchr::memchr(b'\n', rest) {
        Some(end) => (&rest[..end], at + end + 1),
        None => (rest, bytes.len()),
    };
    (line.strip_suffix(b"\r").unwrap_or(line), next)
}

fn is_field(line: &[u8]) -> bool {
    let start = &line[..line.len().min(80)];
    std::str::from_utf8(start).map_or_else(
        |bad| std::str::from_utf8(&start[..bad.valid_up_to()]).is_ok_and(|text| field_of(text).is_some()),
        |text| field_of(text).is_some(),
    )
}
