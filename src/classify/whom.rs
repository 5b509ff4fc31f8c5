//! Whom a notice in free text is about.

use super::Seen;
use crate::parse::address::{self, Found};

/// The most recipients that a notice in free text is believed to name.
const MAX_NAMED: usize = 200;

/// An address that a notice names as failed, with the words about it.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) address: String,
    /// The address that it was made from, where the notice says so.
    pub(super) original: Option<String>,
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

/// The failed addresses.
pub(super) fn named(seen: &Seen<'_>) -> Vec<Named> {
    let text = &seen.mail.text;
    let found: Vec<(Found<'_>, Weight)> =
        address::scan(text).take(4 * MAX_NAMED).map(|found| (found, weigh(text, found))).collect();
    let ours = ours(seen);
    let is_ours = |address: &str| ours.iter().any(|one| one.eq_ignore_ascii_case(address));
    let header = from_header(seen);
    let best = best(&found, &is_ours);
    let mut named = Vec::new();
    if best >= Weight::InPhrase || (header.is_empty() && best > Weight::Source) {
        for (at, (one, weight)) in found.iter().enumerate() {
            let counts = *weight >= best && (best == Weight::Alone || !is_ours(one.address));
            if counts && !is_ours_alone(one.address, &found, &is_ours) {
                let next = found[at + 1..].iter().find(|(_, weight)| *weight >= best);
                let words = &text[one.end..next.map_or(text.len(), |(next, _)| next.start)];
                add(&mut named, one.address, words);
            }
        }
    }
    for address in header {
        if named.is_empty() || !named.iter().any(|one: &Named| one.address.eq_ignore_ascii_case(&address)) {
            let words = if named.is_empty() { text.as_str() } else { "" };
            if named.is_empty() {
                add(&mut named, &address, words);
            }
        }
    }
    named
}

fn is_ours_alone(address: &str, found: &[(Found<'_>, Weight)], is_ours: &dyn Fn(&str) -> bool) -> bool {
    is_ours(address) && found.iter().any(|(one, weight)| *weight == Weight::Alone && !is_ours(one.address))
}

fn best(found: &[(Found<'_>, Weight)], is_ours: &dyn Fn(&str) -> bool) -> Weight {
    let foreign = found.iter().filter(|(one, _)| !is_ours(one.address)).map(|(_, weight)| *weight).max();
    let any = found.iter().filter(|(_, weight)| *weight == Weight::Alone).map(|(_, weight)| *weight).max();
    foreign.max(any).unwrap_or(Weight::Other)
}

fn add(named: &mut Vec<Named>, address: &str, words: &str) {
    if let Some(known) = named.iter_mut().find(|known| known.address.eq_ignore_ascii_case(address)) {
        known.words.push(' ');
        known.words.push_str(words.trim());
    } else if named.len() < MAX_NAMED {
        named.push(Named { address: address.to_owned(), original: None, words: words.trim().to_owned() });
    }
}

/// Addresses of the sender's side: who gets the notice, who sends it, who sent the message.
fn ours(seen: &Seen<'_>) -> Vec<String> {
    let mut ours: Vec<String> = Vec::new();
    let own = ["to", "delivered-to", "x-original-to", "envelope-to", "from", "sender", "reply-to", "errors-to"];
    ours.extend(own.iter().flat_map(|name| seen.mail.headers.addresses(name)).map(str::to_owned));
    if let Some(returned) = &seen.mail.returned {
        let sent = ["from", "sender", "return-path", "reply-to", "errors-to", "x-sender"];
        ours.extend(sent.iter().flat_map(|name| returned.addresses(name)).map(str::to_owned));
    }
    ours
}

/// Weighs an address by its line.
fn weigh(text: &str, found: Found<'_>) -> Weight {
    let line_start = text[..found.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[found.end..].find('\n').map_or(text.len(), |at| found.end + at);
    let before = text[line_start..found.start].trim_start_matches(['>', '|', ' ', '\t']).to_lowercase();
    let after = text[found.end..line_end].trim_end();
    let bare_before = before.trim_end_matches(['<', '"', '\'', '(', '[', '`', ' ', '\t', ':', ',', ';']);
    let bare_after = after.trim_start_matches(['>', '"', '\'', ')', ']', ' ', '\t']);
    if is_other(&before, bare_before, after) {
        return Weight::Other;
    }
    if ["generated from", "expanded from", "orig_to", "originally to"].iter().any(|word| bare_before.ends_with(word)) {
        return Weight::Source;
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
        "mail from", "from", "sender", "contact", "reply-to", "return-path", "message-id", "in-reply-to", "mailto",
        "helo", "ehlo", "by", "at", "envelope-from", "e-mail to", "postmaster", "errors-to", "please email",
        "write to", "email us at", "server at", "references",
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
        "rcpt to", "to", "recipient", "recipients", "for", "user", "address", "addressee", "mailbox", "unknown",
        "unknown user", "no such user", "user unknown", "destinataire", "destinatario", "empfänger", "an", "para",
        "550", "551", "552", "553", "554", "account", "failed", "a",
    ];
    const AFTER: [&str; 12] = [
        "...", "user unknown", "unknown", "not found", "does not exist", "no such", "is not", "was not", "could not",
        "cannot", "has ", "mailbox",
    ];
    let after = after.to_lowercase();
    let is_code = before.bytes().rev().take(5).filter(|byte| *byte == b'.').count() == 2;
    BEFORE.iter().any(|word| ends_with_word(before, word))
        || AFTER.iter().any(|word| after.starts_with(word))
        || is_code
}
