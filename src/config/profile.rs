//! Profiles: how one CRM product takes updates by mail.
//!
//! A profile is data, one TOML file in `config/profiles/`. Those that ship are compiled in; a file of the same
//! form in the configuration folder's `profiles/` adds one or replaces one.

use std::collections::BTreeMap;
use std::path::Path;

use super::marks::{self, Mark};
use super::reader::{Document, Problem};

/// The profiles that ship, by name.
pub const SHIPPED: [(&str, &str); 4] = [
    ("generic", include_str!("../../config/profiles/generic.toml")),
    ("redmine", include_str!("../../config/profiles/redmine.toml")),
    ("rt", include_str!("../../config/profiles/rt.toml")),
    ("znuny", include_str!("../../config/profiles/znuny.toml")),
];

/// One CRM's rules for mail.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The file's stem, as a tenant names it.
    pub name: String,
    /// The product, for people.
    pub title: String,
    /// What ticket ids look like.
    pub ticket: TicketForm,
    /// The subject's token; `{ticket}` and `{PARAMETER}` are replaced.
    pub subject: String,
    /// The names that a tenant must give values for.
    pub parameters: Vec<String>,
    /// The value of `Auto-Submitted` (RFC 3834, section 5); none leaves the field out.
    pub auto_submitted: Option<&'static str>,
    /// Whether `X-Auto-Response-Suppress: All` is sent.
    pub suppress_auto_response: bool,
    /// What `Reply-To` holds.
    pub reply_to: ReplyTo,
    /// A `References` entry that addresses the ticket; `{ticket}` and `{PARAMETER}` are replaced.
    pub reference: Option<String>,
    /// The largest whole message in octets that the CRM takes.
    pub message_bytes: u64,
    /// The marks of the CRM's own answers; the first that fits holds.
    pub marks: Vec<Mark>,
}

/// Which of a ticket's names `out_ticket_id` is, and its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketForm {
    /// Number (what people see and the subject carries) or internal id.
    pub identity: Identity,
    /// The characters that may occur.
    pub characters: Characters,
    /// The most characters.
    pub longest: usize,
}

impl TicketForm {
    /// Why `id` cannot be a ticket here; none when it can.
    pub fn refusal(&self, id: &str) -> Option<String> {
        let fits = |c: char| match self.characters {
            Characters::Digits => c.is_ascii_digit(),
            Characters::Word => c.is_ascii_alphanumeric() || "-_./".contains(c),
        };
        let wanted = match self.characters {
            Characters::Digits => "digits",
            Characters::Word => "letters, digits, - _ . /",
        };
        if id.is_empty() || id.len() > self.longest || !id.chars().all(fits) {
            return Some(format!(
                "the ticket id does not have the profile's form ({wanted}, at most {})",
                self.longest
            ));
        }
        None
    }
}

/// Which of the two names of a ticket an id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The number that people see and that the subject token carries.
    Number,
    /// The internal id that URLs and interfaces carry.
    Id,
    /// The product has one name for both.
    Same,
}

/// The characters of a ticket id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Characters {
    /// 0 to 9.
    Digits,
    /// Letters, digits, `-`, `_`, `.` and `/`.
    Word,
}

/// What `Reply-To` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// The field is left out; the CRM takes `From` as the author.
    Absent,
    /// The envelope sender with its signed token, so that a reply names its session.
    Token,
}

impl Profile {
    /// Reads one profile file.
    pub fn parse(name: &str, file: &Path, source: &str) -> Result<Self, Vec<Problem>> {
        let document = Document::parse(file, source);
        let profile = Self::from_document(name, &document);
        match profile {
            Some(profile) if document.is_sound() => Ok(profile),
            _ => Err(document.into_problems()),
        }
    }

    fn from_document(name: &str, document: &Document<'_>) -> Option<Self> {
        let root = document.root();
        let title = root.required("title");
        let subject: Option<String> = root.required("subject");
        let parameters = root.texts("parameters");
        let auto = [
            ("auto-generated", Some("auto-generated")),
            ("auto-notified", Some("auto-notified")),
            ("absent", None),
        ];
        let auto_submitted = root.one_of("auto_submitted", &auto);
        let suppress = root.one_of("x_auto_response_suppress", &[("all", true), ("absent", false)]);
        let reply_to = root.one_of("reply_to", &[("absent", ReplyTo::Absent), ("token", ReplyTo::Token)]);
        let reference: Option<String> = root.text("reference");
        let message_bytes = root.integer("message_bytes", 10_000..=100_000_000);
        let ticket = root.section("ticket");
        let identities = [("number", Identity::Number), ("id", Identity::Id), ("same", Identity::Same)];
        let identity = ticket.one_of("identity", &identities);
        let characters =
            ticket.one_of("characters", &[("digits", Characters::Digits), ("word", Characters::Word)]);
        let longest = ticket.integer("longest", 1..=100).and_then(|longest| usize::try_from(longest).ok());
        ticket.finish();
        if subject.as_ref().is_some_and(|subject| !subject.contains("{ticket}")) {
            root.problem("subject", "must hold {ticket}");
        }
        for (key, pattern) in [("subject", &subject), ("reference", &reference)] {
            for unknown in placeholders(pattern.as_deref().unwrap_or_default()) {
                if unknown != "ticket" && !parameters.contains(&unknown) {
                    root.problem(
                        key,
                        format_args!("{{{unknown}}} is neither {{ticket}} nor one of the parameters"),
                    );
                }
            }
        }
        let marks = marks::read(&root);
        root.finish();
        Some(Self {
            name: name.to_owned(),
            title: title?,
            ticket: TicketForm {
                identity: identity.unwrap_or(Identity::Same),
                characters: characters.unwrap_or(Characters::Word),
                longest: longest.unwrap_or(40),
            },
            subject: subject?,
            parameters,
            auto_submitted: auto_submitted.unwrap_or(Some("auto-generated")),
            suppress_auto_response: suppress.unwrap_or(true),
            reply_to: reply_to.unwrap_or(ReplyTo::Absent),
            reference,
            message_bytes: message_bytes.unwrap_or(4_000_000),
            marks,
        })
    }
}

/// The names within braces.
fn placeholders(pattern: &str) -> Vec<String> {
    pattern
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Replaces `{NAME}` by its value, in one pass: a value is never looked into.
pub fn fill(pattern: &str, values: &BTreeMap<String, String>, ticket: &str) -> String {
    let mut filled = String::with_capacity(pattern.len() + ticket.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else { break };
        filled.push_str(before);
        filled.push_str(if name == "ticket" { ticket } else { values.get(name).map_or("", String::as_str) });
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_profile_is_sound() {
        for (name, source) in SHIPPED {
            let profile = Profile::parse(name, Path::new(name), source);
            assert!(profile.is_ok(), "{name}: {profile:?}");
        }
    }

    #[test]
    fn tokens_are_those_that_the_crm_was_seen_to_take() {
        let table = [
            ("generic", "10482", "[#10482]"),
            ("rt", "1", "[rt.example.com #1]"),
            ("redmine", "123", "[#123]"),
            ("znuny", "2026112210000013", "[Ticket#2026112210000013]"),
        ];
        let values = BTreeMap::from([("rtname".to_owned(), "rt.example.com".to_owned())]);
        for (name, ticket, token) in table {
            let (_, source) = SHIPPED.into_iter().find(|(shipped, _)| *shipped == name).unwrap();
            let profile = Profile::parse(name, Path::new(name), source).unwrap();
            assert_eq!(fill(&profile.subject, &values, ticket), token);
            assert_eq!(profile.ticket.refusal(ticket), None);
        }
    }

    #[test]
    fn a_ticket_id_that_does_not_fit_is_refused() {
        let digits = TicketForm { identity: Identity::Same, characters: Characters::Digits, longest: 5 };
        let word = TicketForm { characters: Characters::Word, ..digits };
        let table = [
            ("12345", true, true),
            ("", false, false),
            ("123456", false, false),
            ("A-1", false, true),
            ("1] [", false, false),
            ("１", false, false),
            ("1\n", false, false),
            ("{x}", false, false),
        ];
        for (id, as_digits, as_word) in table {
            assert_eq!(
                (digits.refusal(id).is_none(), word.refusal(id).is_none()),
                (as_digits, as_word),
                "{id}"
            );
        }
    }

    #[test]
    fn a_value_is_never_looked_into_for_placeholders() {
        let values = BTreeMap::from([("a".to_owned(), "{ticket}".to_owned())]);
        assert_eq!(fill("<{a}.{ticket}.{none}{", &values, "7"), "<{ticket}.7.{");
    }

    #[test]
    fn a_profile_with_an_unknown_placeholder_names_it() {
        let problems =
            Profile::parse("x", Path::new("x.toml"), "title = \"X\"\nsubject = \"[{name} {ticket}]\"")
                .unwrap_err();
        assert_eq!(
            problems[0].to_string(),
            "x.toml:2: subject: {name} is neither {ticket} nor one of the parameters"
        );
    }
}
