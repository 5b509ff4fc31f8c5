//! The sent-mail log's records and their chain.
//!
//! One record an event. Each is chained to the one before it in its tenant's chain:
//! `hash = SHA-256(previous hash, record)`. A record names its content only by a salted digest, so the content
//! can be erased later without breaking the chain.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::ids::{DeliveryId, Digest, SessionName};

/// The hash before a chain's first record.
pub const FIRST: Digest = Digest([0; 32]);

/// Everything that the log tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A revision was accepted, and this was planned.
    Accepted,
    /// A file was not a session.
    Quarantined,
    /// An attempt ended.
    Attempted,
    /// A delivery was given up, and another channel takes over.
    FellBack,
    /// A mail came back about a delivery.
    Received,
    /// Something followed a mail that came back.
    Reacted,
    /// A person lets mails go to an address again.
    Lifted,
    /// A newer revision took a waiting delivery's place.
    Superseded,
    /// A person asked to try again.
    Retried,
    /// A person stopped a delivery for the time being.
    Held,
    /// A person let a held delivery go.
    Released,
    /// A person stopped a delivery for good.
    Cancelled,
    /// A person stopped all sending of the tenant.
    Paused,
    /// A person let the tenant's sending go on.
    Resumed,
}

impl Event {
    /// The event's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Quarantined => "quarantined",
            Self::Attempted => "attempted",
            Self::FellBack => "fell-back",
            Self::Received => "received",
            Self::Reacted => "reacted",
            Self::Lifted => "lifted",
            Self::Superseded => "superseded",
            Self::Retried => "retried",
            Self::Held => "held",
            Self::Released => "released",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What.
    pub event: Event,
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub session: Option<SessionName>,
    /// To which delivery.
    pub delivery: Option<DeliveryId>,
    /// The details.
    pub content: Value,
}

/// An entry with its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The chained text.
    pub record: String,
    /// The details as text.
    pub content: String,
    /// The chain's hash up to here.
    pub hash: Digest,
}

/// The chained text, as JSON with its keys in alphabetical order.
#[derive(Serialize)]
struct Record<'r> {
    at: String,
    content: String,
    delivery: Option<i64>,
    event: &'static str,
    number: i64,
    session: Option<String>,
    tenant: &'r str,
}

/// Gives an entry its place: `number` counts the tenant's records from 1, `previous` is the hash before it.
pub fn seal(entry: &Entry, tenant: &str, number: i64, previous: &Digest, salt: &[u8]) -> Sealed {
    let content = entry.content.to_string();
    let record = Record {
        at: entry.at.to_string(),
        content: Digest::of_parts(&[salt, content.as_bytes()]).to_string(),
        delivery: entry.delivery.map(|delivery| delivery.0),
        event: entry.event.as_str(),
        number,
        session: entry.session.map(|session| session.to_string()),
        tenant,
    };
    #[expect(clippy::expect_used, reason = "texts and numbers under fixed keys can always be written")]
    let record = serde_json::to_string(&record).expect("a record is JSON");
    let hash = Digest::of_parts(&[&previous.0, record.as_bytes()]);
    Sealed { record, content, hash }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sealed(content: &Value, number: i64, previous: &Digest, salt: &[u8]) -> Sealed {
        let entry = Entry {
            event: Event::Attempted,
            at: Timestamp::UNIX_EPOCH,
            session: Some("call-7".parse().unwrap()),
            delivery: Some(DeliveryId(3)),
            content: content.clone(),
        };
        seal(&entry, "acme", number, previous, salt)
    }

    #[test]
    fn the_hash_depends_on_everything_before_and_within() {
        let content = json!({"code": 250});
        let first = sealed(&content, 1, &FIRST, b"salt");
        assert_eq!(first, sealed(&content, 1, &FIRST, b"salt"));
        for other in [
            sealed(&json!({"code": 550}), 1, &FIRST, b"salt"),
            sealed(&content, 2, &FIRST, b"salt"),
            sealed(&content, 1, &first.hash, b"salt"),
            sealed(&content, 1, &FIRST, b"other"),
        ] {
            assert_ne!(other.hash, first.hash);
        }
    }

    #[test]
    fn the_chained_record_does_not_hold_the_content() {
        let sealed = sealed(&json!({"recipient": "crm@example.com"}), 1, &FIRST, b"salt");
        assert!(!sealed.record.contains("crm@example.com"), "{}", sealed.record);
        assert!(
            sealed.record.contains(r#""session":"call-7""#) && sealed.record.contains(r#""delivery":3"#),
            "{}",
            sealed.record
        );
    }
}
