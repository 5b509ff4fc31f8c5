//! The marks by which a CRM's own answers are known.

use regex::Regex;

use super::reader::Section;

/// What a CRM's answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It took the mail into a ticket that was there.
    Updated,
    /// It took the mail and opened a ticket for it.
    Opened,
    /// It did not take the mail.
    Refused,
}

/// One mark: all its patterns must be found.
#[derive(Debug, Clone)]
pub struct Mark {
    /// What the answer says.
    pub answer: Answer,
    /// In the subject, its words decoded. A group named `ticket` captures the ticket's number, here and below.
    pub subject: Option<Regex>,
    /// In the address of `From`.
    pub from: Option<Regex>,
    /// In a header field of this name.
    pub header: Option<(String, Regex)>,
    /// In the text.
    pub text: Option<Regex>,
}

/// Reads `[[marks]]`.
pub(super) fn read(root: &Section<'_>) -> Vec<Mark> {
    root.sections("marks").iter().filter_map(read_one).collect()
}

fn read_one(section: &Section<'_>) -> Option<Mark> {
    let answers = [("updated", Answer::Updated), ("opened", Answer::Opened), ("refused", Answer::Refused)];
    let answer = section.one_of("answer", &answers);
    if answer.is_none() && !section.names("answer") {
        section.problem("answer", "is missing; it is updated, opened or refused");
    }
    let (subject, from, text) = (section.read("subject"), section.read("from"), section.read("text"));
    let header = match (section.text("header"), section.read("value")) {
        (Some(name), Some(value)) => Some((name, value)),
        (None, None) => None,
        (Some(_), None) => {
            section.problem("value", "is missing; it is what stands in the header field");
            None
        }
        (None, Some(_)) => {
            section.problem("header", "is missing; it names the field that value stands in");
            None
        }
    };
    if subject.is_none() && from.is_none() && text.is_none() && header.is_none() {
        section.problem("subject", "or from, header or text must be given");
    }
    section.finish();
    Some(Mark { answer: answer?, subject, from, header, text })
}
