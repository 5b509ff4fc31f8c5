//! What a webhook is told, as the octets that the outbox keeps.

use serde::Serialize;

use crate::config::webhook::Webhook;
use crate::ids::Digest;

/// What a webhook is told.
#[derive(Debug, Serialize)]
pub struct Told<'t> {
    /// `alert` or `reply`.
    pub event: &'static str,
    /// Whose.
    pub tenant: &'t str,
    /// About which session.
    pub session: String,
    /// The session's ticket; none for one that was to open a ticket.
    pub ticket: Option<&'t str>,
    /// About which delivery.
    pub delivery: i64,
    /// Which mail came back.
    pub inbound: i64,
    /// What that mail is.
    pub verdict: &'static str,
    /// What ties it to the delivery.
    pub proof: &'static str,
    /// What needs a person, or that person's own words.
    pub text: &'t str,
    /// Whom the mail says it is from; empty where it does not say.
    pub from: &'t str,
    /// When it was judged.
    pub at: String,
}

/// One request, but for what is made at its sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// Its name for the receiver, the same at every attempt.
    pub id: String,
    /// The URL without its query.
    pub target: String,
    /// JSON, the same octets at every attempt.
    pub body: Vec<u8>,
}

impl Post {
    /// What is posted of `told`.
    pub fn new(told: &Told<'_>, webhook: &Webhook) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(told)?;
        // The moment is in the octets, so two events have two names.
        Ok(Self { id: format!("msg_{}", Digest::of(&body)), target: webhook.target().into(), body })
    }
}
