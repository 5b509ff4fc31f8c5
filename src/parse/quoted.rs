//! A returned message that is quoted in a text, as programs do that know no MIME.

use super::headers::{Headers, bare_id, field_of};
use super::tree::header_block;

/// The most lines of a quoted header that are read.
const MAX_LINES: usize = 300;
/// The most lines within it that are neither fields nor folded.
const MAX_STRAYS: usize = 20;

/// Names that stand in the header of a message that was on its way, and seldom in a notice's own words.
const TELLING: [&str; 9] = [
    "received",
    "message-id",
    "return-path",
    "mime-version",
    "content-type",
    "dkim-signature",
    "x-mailer",
    "content-transfer-encoding",
    "delivered-to",
];

/// Names that stand in any header.
const USUAL: [&str; 12] = [
    "from",
    "to",
    "subject",
    "date",
    "cc",
    "sender",
    "reply-to",
    "errors-to",
    "precedence",
    "in-reply-to",
    "references",
    "organization",
];

/// A header that is quoted in a text.
#[derive(Debug, Default)]
pub(super) struct Quoted {
    /// What it says.
    pub(super) headers: Headers,
    /// Where the returned message begins. None where the header is only summed up, amid the notice's own words.
    pub(super) start: Option<usize>,
}

/// The first returned message, else the first summary.
pub(super) fn find(text: &str) -> Option<Quoted> {
    let mut summary = None;
    let mut at = 0;
    while at < text.len() {
        let (line, next) = line_at(text, at);
        let (prefix, bare) = unquoted(line);
        let is_start = field_of(bare).is_some_and(|(name, _)| is_known(name));
        let Some((block, length)) = is_start.then(|| block(&text[at..], prefix)).flatten() else {
            at = next;
            continue;
        };
        if is_header(&block) {
            let headers = header_block(block.as_bytes());
            let is_indented = !prefix.is_empty() && !prefix.contains(['>', '|']);
            let has_way =
                ["received", "return-path", "mime-version"].iter().any(|name| headers.get(name).is_some());
            if has_way || !is_indented {
                return Some(Quoted { headers, start: Some(at) });
            }
            summary = summary.or(Some(Quoted { headers, start: None }));
        }
        // What was looked at once is not looked at again.
        at += length;
    }
    summary
}

fn line_at(text: &str, at: usize) -> (&str, usize) {
    let rest = &text[at..];
    let (line, next) = match memchr::memchr(b'\n', rest.as_bytes()) {
        Some(end) => (&rest[..end], at + end + 1),
        None => (rest, text.len()),
    };
    (line.strip_suffix('\r').unwrap_or(line), next)
}

/// A line's quote marks and indent, and what stands behind them.
fn unquoted(line: &str) -> (&str, &str) {
    let bare = line.trim_start_matches(['>', '|', ' ', '\t']);
    (&line[..line.len() - bare.len()], bare)
}

fn is_known(name: &str) -> bool {
    TELLING.iter().chain(&USUAL).any(|known| known.eq_ignore_ascii_case(name))
        || (name.len() > 3 && name[..2].eq_ignore_ascii_case("x-"))
}

/// The lines of a header from here on, without the quote marks, and how long they were.
fn block(text: &str, prefix: &str) -> Option<(String, usize)> {
    let mut block = String::new();
    let (mut at, mut strays) = (0, 0);
    for _ in 0..MAX_LINES {
        let (line, next) = line_at(text, at);
        let line = line.strip_prefix(prefix).unwrap_or_else(|| line.trim_start_matches(['>', '|']));
        if at == text.len() || line.trim().is_empty() {
            break;
        }
        let is_field = field_of(line).is_some_and(|(name, _)| !name.contains(['/', '<', '"', '(', '@']));
        if !is_field && (block.is_empty() || !line.starts_with([' ', '\t'])) {
            // Some programs wrap a long value without an indent.
            strays += 1;
            if block.is_empty() || strays > MAX_STRAYS {
                break;
            }
        }
        block.push_str(line);
        block.push('\n');
        at = next;
    }
    (!block.is_empty()).then_some((block, at))
}

/// Three fields of a header, one of them telling, make one.
fn is_header(block: &str) -> bool {
    let names = || block.lines().filter_map(field_of).map(|(name, _)| name);
    let telling = |name: &str| TELLING.iter().any(|known| known.eq_ignore_ascii_case(name));
    names().filter(|name| is_known(name)).count() >= 3 && names().any(telling)
}

/// A `Message-ID` that a text names by itself, without a header around it.
pub(super) fn message_id(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    memchr::memmem::find_iter(bytes, b"-").filter(|at| *at >= 7).find_map(|at| {
        let is_name = bytes[at - 7..at].eq_ignore_ascii_case(b"message")
            && bytes.get(at + 1..at + 3).is_some_and(|id| id.eq_ignore_ascii_case(b"id"));
        if !is_name {
            return None;
        }
        let rest = text.get(at + 3..)?.trim_start_matches([':', ' ', '\t', '\r', '\n', '=', '"', '\'']);
        let id = rest.split(|c: char| c.is_whitespace() || c == '>').next()?;
        let id = bare_id(id);
        (id.contains('@') && !id.starts_with('@')).then_some(id)
    })
}
