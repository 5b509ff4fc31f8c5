//! What the outbox keeps of a delivery over REST, so that every attempt sends the same octets.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::record::Record;
use crate::ids::Digest;
use crate::plan::Mail;
use crate::template::Rendered;

/// The words behind a note that was cut.
const CUT: &str = "\n[...] The rest is in the file.";

/// A note about one revision of a session, and where it belongs. The file stands beside it in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The CRM, as its base URL.
    pub target: String,
    /// The delivery's own name: the same in every attempt, and known to nobody else before the first.
    pub external_id: String,
    /// The same as a UUID, for a CRM that lets us choose an id (RFC 9562, section 5.8).
    pub uuid: String,
    /// When the note was made (RFC 3339).
    pub made_at: String,
    /// The ticket as the session names it.
    pub ticket: String,
    /// The parts of the ticket's URL, by the recipe's names.
    pub url: BTreeMap<String, String>,
    /// `call-41207`.
    pub session: String,
    /// The name of the file.
    pub file_name: String,
    /// One line.
    pub subject: String,
    /// The text.
    pub text: String,
}

impl Note {
    /// Makes the note of one delivery.
    pub fn new(
        record: &Record,
        external_id: String,
        session: String,
        file_name: String,
        mail: &Mail,
        rendered: &Rendered,
        now: Timestamp,
    ) -> Self {
        Self {
            uuid: uuid(&external_id),
            made_at: now.to_string(),
            target: record.base.to_string().trim_end_matches('/').to_owned(),
            external_id,
            ticket: mail.ticket.clone().unwrap_or_default(),
            url: mail.ticket_url.as_deref().map(|url| url_parts(record, url)).unwrap_or_default(),
            session,
            file_name,
            subject: rendered.subject.clone(),
            text: cut(&rendered.text, record.recipe.note_characters),
        }
    }

    /// A note of nothing, for a request that is about no delivery.
    pub fn blank() -> Self {
        let empty = String::new;
        Self {
            target: empty(),
            external_id: empty(),
            uuid: empty(),
            made_at: empty(),
            ticket: empty(),
            url: BTreeMap::new(),
            session: empty(),
            file_name: empty(),
            subject: empty(),
            text: empty(),
        }
    }

    /// The octets that the store keeps.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The note in these octets; none where they hold none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn uuid(external_id: &str) -> String {
    let mut octets = Digest::of(external_id.as_bytes()).0;
    (octets[6], octets[8]) = (octets[6] & 0x0f | 0x80, octets[8] & 0x3f | 0x80);
    let hex = Digest(octets).to_string();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(CUT.len())).collect();
    kept + CUT
}

/// The parts that the recipe finds in a ticket URL; none where it is not of the tenant's CRM: an id of another system
/// would be another ticket here.
fn url_parts(record: &Record, url: &str) -> BTreeMap<String, String> {
    let Ok(parsed) = url.parse::<reqwest::Url>() else { return BTreeMap::new() };
    let host = parsed.host_str().unwrap_or_default();
    let is_ours = parsed.scheme() == record.base.scheme()
        && (Some(host) == record.base.host_str() || record.ticket_hosts.iter().any(|known| known == host));
    let pattern = record.recipe.ticket_url.as_ref().filter(|_| is_ours);
    let Some((pattern, found)) = pattern.and_then(|pattern| Some((pattern, pattern.captures(url)?))) else {
        return BTreeMap::new();
    };
    let part = |name: &str| Some((name.to_owned(), found.name(name)?.as_str().to_owned()));
    pattern.capture_names().flatten().filter_map(part).collect()
}
