//! What a mail that came back is: a bounce, a reply, a machine's answer, and whom it is about.
//!
//! The most reliable evidence is asked first, and the first that decides ends the asking: parts that are written for
//! programs; the shape of a failure notice in free text; the CRM's own marks; what automatic answers look like; what
//! answers of people look like. Formats are code, phrases are data ([`rules`]).

pub mod reason;
pub mod rules;
pub mod verdict;

mod answers;
mod automatic;
mod needle;
mod notice;
mod patterns;
mod reply;
mod report;
mod says;
mod whom;

use std::cell::OnceCell;

use self::rules::{Evidence, Rules};
use self::verdict::{Kind, Verdict};
use crate::config::marks::Mark;
use crate::parse::{Mail, Problem};

/// Judges a mail. `marks` are those of the CRM that the mail may have come from.
pub fn classify(mail: &Mail, rules: &Rules, marks: &[Mark]) -> Verdict {
    let seen = Seen { mail, rules, header: rules.look_at_header(mail), all: OnceCell::new() };
    // What only looks like a report because the CRM quotes an update is the CRM's answer first.
    let is_in_text = mail.problems.contains(&Problem::FieldsInText);
    let quoted = if is_in_text { answers::acknowledgement(mail, marks) } else { None };
    quoted
        .or_else(|| report::delivery(&seen))
        .or_else(|| report::provider(&seen))
        .or_else(|| report::feedback(&seen))
        .or_else(|| report::receipt(&seen))
        .or_else(|| notice::judge(&seen))
        .or_else(|| answers::acknowledgement(mail, marks))
        .or_else(|| automatic::judge(&seen))
        .or_else(|| answers::reply(&seen))
        .unwrap_or_else(|| Verdict::new(Kind::Other, "nothing-fits"))
}

/// A mail with what the rules say of it.
struct Seen<'m> {
    mail: &'m Mail,
    rules: &'m Rules,
    header: Evidence<'m>,
    all: OnceCell<Evidence<'m>>,
}

impl<'m> Seen<'m> {
    /// What the rules say of header and text. The text is only looked at where the question comes up.
    fn evidence(&self) -> &Evidence<'m> {
        self.all.get_or_init(|| self.rules.look_at_text(self.mail, &self.header))
    }

    /// The mail's own header.
    fn header(&self, name: &str) -> Option<&str> {
        self.mail.headers.get(name)
    }

    /// RFC 5321, section 4.5.5: the empty sender of notices.
    fn has_empty_sender(&self) -> bool {
        self.header("return-path").is_some_and(|path| matches!(path.trim(), "" | "<>" | "< >"))
    }
}
