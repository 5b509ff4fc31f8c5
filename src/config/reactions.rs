//! What a tenant wants done about mail that comes back: `[reactions]` of its file.

use std::path::Path;

use jiff::SignedDuration;

use super::reader::Section;
use super::webhook::{self, Webhook};
use crate::address::Address;

/// What follows a reply, a bounce or an answer of the CRM.
#[derive(Debug, Clone)]
pub struct Reactions {
    /// The wait before a mail that bounced for the time being goes out again.
    pub soft_wait: SignedDuration,
    /// How often it does.
    pub soft_times: u32,
    /// Where updates go whose address is bad; none holds them for a person.
    pub fallback: Option<Address>,
    /// Who is told what needs a person.
    pub alert: Option<Address>,
    /// Who gets the replies of people.
    pub forward: Option<Address>,
    /// The program that is told both.
    pub webhook: Option<Webhook>,
    /// The domains and addresses from which the CRM answers.
    pub senders: Vec<String>,
    /// The server whose `Authentication-Results` (RFC 8601) are believed; none believes `From`.
    pub authentication: Option<String>,
}

/// Reads the section. Answers come from `domain`, that of the recipient, where the file names no others. A relative path
/// starts at `base`.
pub(super) fn read(section: &Section<'_>, base: &Path, domain: Option<&str>) -> Reactions {
    let senders = section.texts("senders");
    for sender in senders.iter().filter(|sender| sender.contains(char::is_whitespace) || sender.is_empty()) {
        section.problem("senders", format_args!("{sender:?} is neither a domain nor an address"));
    }
    let default = || domain.map(str::to_owned).into_iter().collect();
    let reactions = Reactions {
        soft_wait: section.duration("soft_wait").unwrap_or(SignedDuration::from_hours(1)),
        soft_times: section.integer("soft_times", 0..=20).and_then(|n| u32::try_from(n).ok()).unwrap_or(3),
        fallback: section.read("fallback"),
        alert: section.read("alert"),
        forward: section.read("forward"),
        webhook: webhook::read(&section.section("webhook"), base),
        senders: if section.names("senders") { senders } else { default() },
        authentication: section.text("authentication"),
    };
    section.finish();
    reactions
}
