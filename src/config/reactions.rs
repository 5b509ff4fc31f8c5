//! What a tenant wants done about mail that comes back: `[reactions]` of its file.

use std::path::Path;

use jiff::SignedDuration;
use reqwest::Url;

use super::oauth2::refusal;
use super::reader::Section;
use super::secret::{self, Secret};
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
    /// What is told of both.
    pub webhook: Option<Webhook>,
    /// The domains and addresses from which the CRM answers.
    pub senders: Vec<String>,
    /// The server whose `Authentication-Results` (RFC 8601) are believed; none believes `From`.
    pub authentication: Option<String>,
}

/// A URL that takes signed POSTs.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where.
    pub url: Url,
    /// The key of the signature.
    pub secret: Secret,
}

/// Reads the section. Answers come from `domain`, that of the recipient, where the file names no others.
pub(super) fn read(section: &Section<'_>, domain: Option<&str>, base: &Path) -> Reactions {
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
        webhook: webhook(&section.section("webhook"), base),
        senders: if section.names("senders") { senders } else { default() },
        authentication: section.text("authentication"),
    };
    section.finish();
    reactions
}

fn webhook(section: &Section<'_>, base: &Path) -> Option<Webhook> {
    if !section.is_given() {
        return None;
    }
    let url: Option<Url> = section.required("url");
    if let Some(reason) = url.as_ref().and_then(refusal) {
        section.problem("url", reason);
    }
    let secret = secret::load(section, "secret", base);
    if !section.names("secret") {
        section.problem("secret", "missing; the receiver knows by it that the call is ours");
    }
    section.finish();
    Some(Webhook { url: url?, secret: secret? })
}
