//! Notices about mails that came back, as deliveries of their own.

use jiff::Timestamp;

use super::engine::{Result, Tx, args};
use super::verdict::Place;
use crate::compose::Composed;
use crate::config::tenant::Channel;
use crate::ids::{DeliveryId, InboundId};
use crate::webhook::post::Post;

/// One way of telling somebody.
#[derive(Debug, Clone)]
pub enum Telling {
    /// A mail to a person.
    Mail(Box<Composed>),
    /// A request to the tenant's own program.
    Webhook(Box<Post>),
}

impl Telling {
    fn channel(&self) -> Channel {
        match self {
            Self::Mail(_) => Channel::Email,
            Self::Webhook(_) => Channel::Webhook,
        }
    }

    /// The target, the message's id, the envelope's sender, and the octets.
    fn columns(&self) -> (&str, &str, &str, &Vec<u8>) {
        match self {
            Self::Mail(mail) => {
                (mail.recipient.as_str(), &mail.message_id, mail.envelope_from.as_str(), &mail.wire)
            }
            Self::Webhook(post) => (&post.target, &post.id, "", &post.body),
        }
    }
}

/// A notice about a mail that came back. It goes the way of all deliveries.
pub(super) fn notice(
    tx: &Tx<'_>,
    place: &Place,
    inbound: InboundId,
    telling: &Telling,
    now: Timestamp,
) -> Result<DeliveryId> {
    let (target, message_id, envelope_from, octets) = telling.columns();
    let id = tx.insert(
        "INSERT INTO deliveries (id, tenant, session, revision, channel, target, message_id, state, reason, due, notice, \
         created_at, changed_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', '', $8, $9, $8, $8)",
        args![
            &place.tenant,
            place.session.id,
            place.revision,
            telling.channel().as_str(),
            target,
            message_id,
            now,
            inbound.0
        ],
    )?;
    tx.execute(
        "INSERT INTO messages (delivery, envelope_from, head) VALUES ($1, $2, $3)",
        args![id, envelope_from, octets],
    )?;
    Ok(DeliveryId(id))
}
