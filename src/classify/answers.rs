//! Answers: the CRM's own, by the marks of its profile, and those of people.

use regex::Regex;

use super::Seen;
use super::verdict::{Action, Kind, Recipient, Sub, Verdict};
use crate::config::marks::{Answer, Mark};
use crate::parse::Mail;

/// The first mark that a mail bears.
pub(super) fn acknowledgement(mail: &Mail, marks: &[Mark]) -> Option<Verdict> {
    marks.iter().enumerate().find_map(|(at, mark)| {
        let ticket = bears(mail, mark)?;
        let sub = match mark.answer {
            Answer::Updated => Sub::Updated,
            Answer::Opened => Sub::Opened,
            Answer::Refused => Sub::Refused,
        };
        let mut verdict =
            Verdict::new(Kind::Acknowledgement, &format!("mark-{}", at + 1)).with_sub(Some(sub));
        verdict.ticket = ticket;
        Some(verdict.about(author(mail)))
    })
}

/// Whether all patterns of a mark are found, with the ticket that one of them captures.
fn bears(mail: &Mail, mark: &Mark) -> Option<Option<String>> {
    let from = mail.headers.addresses("from");
    let header = mark.header.as_ref();
    let places = [
        (mark.subject.as_ref(), mail.headers.get("subject")),
        (mark.from.as_ref(), from.first().copied()),
        (mark.text.as_ref(), Some(mail.text.as_str())),
    ];
    let mut ticket = None;
    for (pattern, text) in places.into_iter().filter_map(|(pattern, text)| Some((pattern?, text))) {
        let found = captured(pattern, text?)?;
        ticket = ticket.or(found);
    }
    if let Some((name, pattern)) = header {
        let found = mail.headers.all(name).find_map(|value| captured(pattern, value))?;
        ticket = ticket.or(found);
    }
    Some(ticket)
}

/// `None` where the pattern is not found; else what its group `ticket` captured.
fn captured(pattern: &Regex, text: &str) -> Option<Option<String>> {
    let captures = pattern.captures(text)?;
    Some(captures.name("ticket").map(|ticket| ticket.as_str().to_owned()))
}

/// Who wrote a mail, as one of whom it is.
pub(super) fn author(mail: &Mail) -> Vec<Recipient> {
    let from = mail.headers.addresses("from");
    from.first().map(|address| Recipient::new(address, Action::Delivered)).into_iter().collect()
}

/// RFC 5322, section 3.6.4; and the subject prefixes of programs that write no such fields.
pub(super) fn reply(seen: &Seen<'_>) -> Option<Verdict> {
    let rule = if names_another(seen.mail) {
        "in-reply-to"
    } else if is_reply_subject(seen.header("subject").unwrap_or_default()) {
        "reply-subject"
    } else {
        return None;
    };
    Some(Verdict::new(Kind::Reply, rule).about(author(seen.mail)))
}

/// Whether a mail names the one that it answers.
pub(super) fn names_another(mail: &Mail) -> bool {
    ["in-reply-to", "references"].iter().any(|name| !mail.headers.ids(name).is_empty())
}

/// `Re:` in the languages that write it otherwise, also counted, as in `Re[2]:`.
pub(super) fn is_reply_subject(subject: &str) -> bool {
    const PREFIXES: [&str; 14] =
        ["re", "aw", "sv", "vs", "antw", "odp", "rif", "rv", "res", "回复", "答复", "回覆", "отв", "ynt"];
    let Some((prefix, _)) = subject.trim_start().split_once([':', '：']) else { return false };
    let prefix = prefix.split(['[', '(', '^']).next().unwrap_or_default().trim().to_lowercase();
    PREFIXES.contains(&prefix.as_str())
}
