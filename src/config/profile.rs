//! Profiles: how one CRM product takes updates by mail.
//!
//! A profile is data, one TOML file in `config/profiles/`. Those that ship are compiled in; a file of the same
//! form in the configuration folder's `profiles/` adds one or replaces one.

use std::collections::BTreeMap;
use std::path::Path;

use super::acts::{self, Acts};
use super::marks::{self, Mark};
use super::reader::{Document, Problem, Section};
pub use super::shipped::SHIPPED;
use super::sources::{self, Source};
use super::ticket::{self, Identity, TicketRules};

/// One CRM's rules for mail.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The file's stem, as a tenant names it.
    pub name: String,
    /// The product, for people.
    pub title: String,
    /// The names of its tickets.
    pub ticket: TicketRules,
    /// The subject of a mail to a ticket; `{ticket}`, `{PARAMETER}` and `{text}` are replaced. Without `{text}` the
    /// rendered subject follows behind.
    pub subject: Option<String>,
    /// The last paragraph of a mail to a ticket, in the same way.
    pub body: Option<String>,
    /// The address of a ticket, for a tenant that gives none of its own.
    pub recipient: Option<String>,
    /// The names that a tenant must give values for.
    pub parameters: Vec<String>,
    /// The values that a tenant may replace.
    pub defaults: BTreeMap<String, String>,
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
    /// The largest attachment in octets; none where only the whole message counts.
    pub file_bytes: Option<u64>,
    /// The most characters of a text and of an HTML body; none where only the whole message counts.
    pub text_characters: Option<usize>,
    /// What would act in a text.
    pub acts: Acts,
    /// The marks of the CRM's own answers; the first that fits holds.
    pub marks: Vec<Mark>,
    /// What somebody must set up in the CRM.
    pub setup: Vec<String>,
    /// How sure all this is.
    pub sources: Vec<Source>,
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
        let defaults: BTreeMap<String, String> = root.section("defaults").pairs().into_iter().collect();
        let auto = [
            ("auto-generated", Some("auto-generated")),
            ("auto-notified", Some("auto-notified")),
            ("absent", None),
        ];
        let reply_to = [("absent", ReplyTo::Absent), ("token", ReplyTo::Token)];
        let characters = root.integer("text_characters", 1_000..=100_000_000);
        let profile = Self {
            name: name.to_owned(),
            title: root.required("title").unwrap_or_default(),
            ticket: ticket::read(&root.section("ticket")),
            subject: root.text("subject"),
            body: root.text("body"),
            recipient: root.text("recipient"),
            parameters: root.texts("parameters"),
            auto_submitted: root.one_of("auto_submitted", &auto).unwrap_or(Some("auto-generated")),
            suppress_auto_response: root
                .one_of("x_auto_response_suppress", &[("all", true), ("absent", false)])
                .unwrap_or(true),
            reply_to: root.one_of("reply_to", &reply_to).unwrap_or(ReplyTo::Absent),
            reference: root.text("reference"),
            message_bytes: root.integer("message_bytes", 10_000..=100_000_000).unwrap_or(4_000_000),
            file_bytes: root.integer("file_bytes", 1_000..=100_000_000),
            text_characters: characters.and_then(|most| usize::try_from(most).ok()),
            acts: acts::read(&root.section("acts"), &defaults),
            defaults,
            marks: marks::read(&root),
            setup: root.texts("setup"),
            sources: sources::read(&root.section("sources")),
        };
        profile.look_for_problems(&root);
        root.finish();
        document.is_sound().then_some(profile)
    }

    /// What of a mail names its ticket, by key.
    fn patterns(&self) -> [(&'static str, Option<&String>); 4] {
        [
            ("subject", self.subject.as_ref()),
            ("body", self.body.as_ref()),
            ("recipient", self.recipient.as_ref()),
            ("reference", self.reference.as_ref()),
        ]
    }

    fn look_for_problems(&self, root: &Section<'_>) {
        for (key, pattern) in self.patterns() {
            let Some(pattern) = pattern else { continue };
            for name in placeholders(pattern) {
                let is_of_mail = key == "subject" && (name == "text" || name == "token");
                if name != "ticket" && !is_of_mail && !self.knows(&name) {
                    root.problem(
                        key,
                        format_args!("{{{name}}} is neither {{ticket}} nor one of the parameters"),
                    );
                }
            }
            if !pattern.contains("{ticket}") {
                root.problem(key, "must hold {ticket}");
            }
        }
        let names_tickets = self.patterns().iter().any(|(_, pattern)| pattern.is_some());
        if !names_tickets && self.ticket.unreachable.is_none() {
            root.problem("subject", "missing; or ticket.unreachable says why mail cannot reach a ticket");
        }
    }

    fn knows(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|name| name == parameter) || self.defaults.contains_key(parameter)
    }

    /// Why mail cannot reach the tickets of sessions that give this name of theirs; none where it can.
    pub fn unreachable_by(&self, identity: Identity) -> Option<String> {
        let names_tickets = self.patterns().iter().any(|(_, pattern)| pattern.is_some());
        if names_tickets && self.ticket.tells_mail(identity) {
            return None;
        }
        let carried = self.ticket.mail;
        let default = || format!("mail carries the {carried}, and neither the session nor its URL tells it");
        Some(self.ticket.unreachable.clone().unwrap_or_else(default))
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
        for (name, ticket, token) in table {
            let (_, source) = SHIPPED.into_iter().find(|(shipped, _)| *shipped == name).unwrap();
            let profile = Profile::parse(name, Path::new(name), source).unwrap();
            let mut values = profile.defaults.clone();
            values.insert("rtname".to_owned(), "rt.example.com".to_owned());
            assert_eq!(fill(&profile.subject.unwrap(), &values, ticket), token);
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
