//! Whom a notice in free text is about.

use super::Seen;
use crate::parse::address::{self, Found};
use crate::parse::headers::cut;

/// The most recipients that a notice in free text is believed to name.
const MAX_NAMED: usize = 200;
/// The most octets of a line that are looked at before and behind an address.
const MAX_NEAR: usize = 300;

/// An address that a notice names as failed, with the words about it.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) address: String,
    /// What stands between it and the next.
    pub(super) words: String,
}

/// How sure it is that an address is the failed one, by what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// Somebody else, by the words before it.
    Other,
    /// Whom the failed one was made from.
    Source,
    /// Somewhere in the text.
    Somewhere,
    /// Behind or before words that failures are told with.
    InPhrase,
    /// In a line of its own, or at the beginning of one, before a colon.
    Alone,
}

/// The addresses of `X-Failed-Recipients`, which Exim and Google write.
pub(super) fn from_header(seen: &Seen<'_>) -> Vec<String> {
    let names = ["x-failed-recipients", "x-failed-recipient", "x-actual-recipients"];
    names.iter().flat_map(|name| seen.mail.headers.addresses(name)).map(str::to_owned).collect()
}

/// The failed addresses: those that stand for themselves; else those in phrases of failure, then of the header, then
/// those that are known to be the sender's side as well, then any.
/// With it comes whether they stand for themselves.
pub(super) fn named(seen: &Seen<'_>) -> (Vec<Named>, bool) {
    let text = &seen.mail.text;
    let ours = ours(seen);
    let is_ours = |address: &str| ours.iter().any(|one| one.eq_ignore_ascii_case(address));
    let found: Vec<(Found<'_>, Weight, bool)> = address::scan(text)
        .take(4 * MAX_NAMED)
        .map(|found| (found, weigh(text, found), is_ours(found.address)))
        .collect();
    let passes = [
        (Weight::Alone, Some(false)),
        (Weight::Alone, Some(true)),
        (Weight::InPhrase, Some(false)),
        (Weight::InPhrase, None),
        (Weight::InPhrase, Some(true)),
        (Weight::Somewhere, Some(false)),
        (Weight::Source, Some(false)),
    ];
    let mut named = Vec::new();
    for (least, whose) in passes {
        match whose {
            Some(ours) => {
                let counts = |one: &(Found<'_>, Weight, bool)| one.1 >= least && one.2 == ours;
                for (at, (one, _, _)) in found.iter().enumerate().filter(|(_, one)| counts(one)) {
                    let next = found[at + 1..].iter().find(|next| counts(next));
                    let words = &text[one.end..next.map_or(text.len(), |(next, _, _)| next.start)];
                    add(&mut named, one.address, before_rule(words));
                }
            }
            None => from_header(seen).iter().for_each(|address| add(&mut named, address, text)),
        }
        if !named.is_empty() {
            return (named, least == Weight::Alone);
        }
    }
    (local_parts(seen), false)
}

/// AOL and others name only the part before the `@`, of a mailbox at their own domain.
fn local_parts(seen: &Seen<'_>) -> Vec<Named> {
    let from = seen.mail.headers.addresses("from");
    let Some((_, domain)) = from.first().and_then(|from| from.rsplit_once('@')) else { return Vec::new() };
    let names_list = |line: &&str| {
        line.trim_end().ends_with(':')
            && ["recipient", "address", "user", "@"].iter().any(|word| line.contains(word))
    };
    let mut lines = seen.mail.text.lines().skip_while(|line| !names_list(line));
    lines.next();
    let is_name = |line: &&str| {
        let name = line.trim();
        line.starts_with([' ', '\t'])
            && (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+'))
    };
    let mut named = Vec::new();
    for line in lines.skip_while(|line| line.trim().is_empty()).take_while(is_name) {
        add(&mut named, &format!("{}@{domain}", line.trim()), "");
    }
    named
}

/// The words up to a drawn line, behind which the returned message stands; what was said to the host may stand
/// behind one too.
fn before_rule(words: &str) -> &str {
    const SAID: [&str; 6] = ["transcript", "session", "error", "detail", "diagnos", "server message"];
    let mut end = 0;
    for line in words.split_inclusive('\n') {
        let is_drawn = line.trim_start_matches(['>', ' ']).starts_with("---");
        let lower = line.to_lowercase();
        if is_drawn && end > 0 && !SAID.iter().any(|word| lower.contains(word)) {
            break;
        }
        end += line.len();
    }
    &words[..end]
}

fn add(named: &mut Vec<Named>, address: &str, words: &str) {
    if let Some(known) = named.iter_mut().find(|known| known.address.eq_ignore_ascii_case(address)) {
        known.words.push(' ');
        known.words.push_str(words.trim());
    } else if named.len() < MAX_NAMED {
        named.push(Named { address: address.to_owned(), words: words.trim().to_owned() });
    }
}

/// Addresses of the sender's side: who gets the notice, who sends it, who sent the message.
fn ours(seen: &Seen<'_>) -> Vec<String> {
    let mut ours: Vec<String> = Vec::new();
    let own =
        ["to", "delivered-to", "x-original-to", "envelope-to", "from", "sender", "reply-to", "errors-to"];
    ours.extend(own.iter().flat_map(|name| seen.mail.headers.addresses(name)).map(str::to_owned));
    if let Some(returned) = &seen.mail.returned {
        let sent = ["from", "sender", "return-path", "reply-to", "errors-to", "x-sender"];
        ours.extend(sent.iter().flat_map(|name| returned.addresses(name)).map(str::to_owned));
    }
    ours
}

/// Weighs an address by its line.
fn weigh(text: &str, found: Found<'_>) -> Weight {
    let near = (found.start.saturating_sub(MAX_NEAR)..=found.start)
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    let line_start = text[near..found.start].rfind('\n').map_or(near, |at| near + at + 1);
    let rest = cut(&text[found.end..], MAX_NEAR);
    let line_end = found.end + rest.find('\n').unwrap_or(rest.len());
    let before = text[line_start..found.start].trim_start_matches(['>', '|', ' ', '\t']).to_lowercase();
    let after = text[found.end..line_end].trim_end();
    let bare_before = before.trim_end_matches(['<', '"', '\'', '(', '[', '`', ' ', '\t', ':', ',', ';']);
    let bare_after = after.trim_start_matches(['>', '"', '\'', ')', ']', ' ', '\t']);
    if ["generated from", "expanded from", "orig_to", "originally to"]
        .iter()
        .any(|word| bare_before.ends_with(word))
    {
        return Weight::Source;
    }
    if is_other(&before, bare_before, after) {
        return Weight::Other;
    }
    let opens = bare_before.trim_matches(['-', '*', '\u{b7}', '\u{2022}', '.', ' ', '\t']).is_empty();
    if opens && is_end(bare_after) {
        return Weight::Alone;
    }
    if is_phrase(bare_before, bare_after) { Weight::InPhrase } else { Weight::Somewhere }
}

/// What may stand behind an address that stands for itself.
fn is_end(after: &str) -> bool {
    after.is_empty()
        || after.starts_with([':', '.', ',', ';', '(', '-', '\u{2013}'])
        || after.to_lowercase().starts_with("on ")
}

fn is_other(before: &str, bare_before: &str, after: &str) -> bool {
    const ENDS: [&str; 22] = [
        "mail from",
        "from",
        "sender",
        "contact",
        "reply-to",
        "return-path",
        "message-id",
        "in-reply-to",
        "mailto",
        "helo",
        "ehlo",
        "by",
        "at",
        "envelope-from",
        "e-mail to",
        "postmaster",
        "errors-to",
        "please email",
        "write to",
        "email us at",
        "server at",
        "references",
    ];
    ENDS.iter().any(|word| ends_with_word(bare_before, word))
        || before.contains("mail from:")
        || before.contains("message-id")
        || after.starts_with("> size=")
}

fn ends_with_word(text: &str, word: &str) -> bool {
    text.strip_suffix(word).is_some_and(|rest| !rest.ends_with(|c: char| c.is_alphanumeric()))
}

fn is_phrase(before: &str, after: &str) -> bool {
    const BEFORE: [&str; 26] = [
        "rcpt to",
        "to",
        "recipient",
        "recipients",
        "for",
        "user",
        "address",
        "addressee",
        "mailbox",
        "unknown",
        "unknown user",
        "no such user",
        "user unknown",
        "destinataire",
        "destinatario",
        "empfänger",
        "an",
        "para",
        "550",
        "551",
        "552",
        "553",
        "554",
        "account",
        "failed",
        "a",
    ];
    const AFTER: [&str; 12] = [
        "...",
        "user unknown",
        "unknown",
        "not found",
        "does not exist",
        "no such",
        "is not",
        "was not",
        "could not",
        "cannot",
        "has ",
        "mailbox",
    ];
    let after = after.to_lowercase();
    let is_code = before.bytes().rev().take(5).filter(|byte| *byte == b'.').count() == 2;
    BEFORE.iter().any(|word| ends_with_word(before, word))
        || AFTER.iter().any(|word| after.starts_with(word))
        || is_code
}
