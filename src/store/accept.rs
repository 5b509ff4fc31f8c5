//! Accepting a revision: the session, its bytes, what was planned and the log record, in one transaction.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::engine::{Arg, Foresight, Result, Tx, args};
use super::{Message, Scope, SessionRow, Store, StoreError, append, moment, random, session};
use crate::config::tenant::Channel;
use crate::crash::{Step, reached};
use crate::ids::{DeliveryId, Digest, SessionKey};
use crate::log::{Entry, Event};
use crate::outbox::State;
use crate::plan::{History, Past};
use crate::session::Ticket;

/// A revision with everything that was decided about it.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Whose revision.
    pub key: SessionKey,
    /// The version stamp.
    pub updated_at: Timestamp,
    /// The digest of `raw`.
    pub digest: Digest,
    /// The file's bytes.
    pub raw: Arc<Vec<u8>>,
    /// Where it came from, for people.
    pub source: String,
    /// The CRM record.
    pub ticket: Ticket,
    /// How many revisions were known when this was decided.
    pub revisions: u64,
    /// The channel that it was planned for.
    pub channel: Channel,
    /// The channel that takes over when that one is refused for good.
    pub fallback: Option<Channel>,
    /// What to send.
    pub planned: Planned,
    /// The deliveries that this one replaces.
    pub supersedes: Vec<DeliveryId>,
    /// The present.
    pub now: Timestamp,
}

/// What was decided to send.
#[derive(Debug, Clone)]
pub enum Planned {
    /// Nothing, for this reason.
    Nothing(&'static str),
    /// A message, not before `due`.
    Message {
        /// The message.
        message: Message,
        /// Its digest for the log. It comes with the message: the thread that writes has no time for it.
        digest: Digest,
        /// When.
        due: Timestamp,
        /// Why not now; empty for now.
        waits_for: &'static str,
        /// Why only after a person lets it go; none when nobody needs to.
        hold: Option<String>,
    },
    /// Nothing until a person decides, for this reason.
    Hold(String),
}

impl Planned {
    /// The way of the message; none where there is none.
    pub fn channel(&self) -> Option<Channel> {
        match self {
            Self::Message { message, .. } => Some(message.channel()),
            Self::Nothing(_) | Self::Hold(_) => None,
        }
    }
}

/// What became of a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// It is stored, with its delivery if one was planned.
    Stored(Option<DeliveryId>),
    /// These bytes were stored before, with this delivery.
    Duplicate(Option<DeliveryId>),
    /// More is known of the session than the plan knew; plan again with this.
    OutOfDate(History),
}

/// Bytes that are not a session.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Whose folder or command.
    pub tenant: String,
    /// The file, for people.
    pub source: String,
    /// Place and reason.
    pub reason: String,
    /// The bytes, as far as they were read.
    pub raw: Vec<u8>,
    /// The present.
    pub now: Timestamp,
}

impl Store {
    /// Stores a revision, unless it is stored already or more is known than the plan knew.
    pub async fn accept(&self, accepted: Accepted) -> std::result::Result<Acceptance, StoreError> {
        let scope = Scope::Tenant(accepted.key.tenant.clone());
        let foresight = Foresight::of(FIND, &find_by(&accepted.key), 3);
        let acceptance = self.write_foreseen(scope, foresight, move |tx| accept(tx, &accepted)).await?;
        reached(Step::Accepted);
        Ok(acceptance)
    }

    /// Keeps bytes that are not a session. The same bytes from the same place are kept once; true for new ones.
    pub async fn quarantine(&self, quarantined: Quarantined) -> std::result::Result<bool, StoreError> {
        let scope = Scope::Tenant(quarantined.tenant.clone());
        self.write(scope, move |tx| quarantine(tx, &quarantined)).await
    }

    /// The bytes of one revision of a session.
    pub async fn revision(
        &self,
        key: SessionKey,
        of: Digest,
    ) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        self.write(Scope::Tenant(key.tenant.clone()), move |tx| {
            let Some(session) = find(tx, &key)? else { return Ok(None) };
            let sql = "SELECT raw FROM revisions WHERE session = $1 AND digest = $2";
            tx.first(sql, args![session.id, &of], |row| row.get(0))
        })
        .await
    }

    /// Notes that watched files are dealt with as they are now; each is a path and a stamp.
    pub async fn note_files(
        &self,
        tenant: String,
        files: Vec<(String, String)>,
    ) -> std::result::Result<(), StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| {
            let note = "INSERT INTO files (tenant, path, stamp) VALUES ($1, $2, $3) \
                        ON CONFLICT (tenant, path) DO UPDATE SET stamp = excluded.stamp";
            files.iter().try_for_each(|(path, stamp)| tx.execute(note, args![&tenant, path, stamp]))
        })
        .await
    }
}

fn accept(tx: &Tx<'_>, accepted: &Accepted) -> Result<Acceptance> {
    let session = match find(tx, &accepted.key)? {
        None => insert_session(tx, accepted)?,
        Some(session) => {
            if let Some(delivery) = duplicate(tx, session.id, &accepted.digest)? {
                return Ok(Acceptance::Duplicate(delivery));
            }
            let history = history(tx, session.id)?;
            let still_waits = |id| {
                history
                    .deliveries
                    .iter()
                    .any(|past| past.id == id && past.state.may_become(State::Superseded))
            };
            if history.revisions != accepted.revisions
                || !accepted.supersedes.iter().copied().all(still_waits)
            {
                return Ok(Acceptance::OutOfDate(history));
            }
            if !matches!(accepted.planned, Planned::Nothing(_)) {
                let sql = "UPDATE sessions SET ticket = $1, ticket_url = $2 WHERE id = $3";
                let ticket = &accepted.ticket;
                tx.execute(sql, args![ticket.id.as_ref(), ticket.url.as_ref(), session.id])?;
            }
            session
        }
    };
    let revision = tx.insert(
        "INSERT INTO revisions (id, session, updated_at, digest, source, accepted_at, raw) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        args![session.id, accepted.updated_at, &accepted.digest, &accepted.source, accepted.now, &accepted.raw[..]],
    )?;
    let placed = Placed {
        tenant: &accepted.key.tenant,
        session: session.id,
        revision,
        ticket: accepted.ticket.id.as_ref(),
        channel: accepted.channel,
        fallback: accepted.fallback,
        instead_of: None,
        now: accepted.now,
    };
    let delivery = insert_delivery(tx, &placed, &accepted.planned, &accepted.raw)?;
    for replaced in &accepted.supersedes {
        supersede(tx, &session, *replaced, delivery, accepted)?;
    }
    let entry = Entry {
        event: Event::Accepted,
        at: accepted.now,
        session: Some(session.name),
        delivery,
        content: content(accepted),
    };
    append(tx, &accepted.key.tenant, Some(&session), &entry);
    reached(Step::AcceptWritten);
    Ok(Acceptance::Stored(delivery))
}

/// What the log says of what was decided to send.
pub(super) fn planned_content(planned: &Planned) -> Value {
    match planned {
        Planned::Nothing(why) => json!({ "nothing": why }),
        Planned::Hold(why) => json!({ "hold": why }),
        Planned::Message { message, digest, due, hold, .. } => json!({
            "channel": message.channel().as_str(),
            "send_to": message.target(),
            "from": message.envelope_from(),
            "message_id": message.id(),
            "sha256": digest.to_string(),
            "due": due.to_string(),
            "hold": hold,
        }),
    }
}

/// What the log says of an accepted revision.
fn content(accepted: &Accepted) -> Value {
    json!({
        "revision": accepted.digest.to_string(),
        "updated_at": accepted.updated_at.to_string(),
        "source": accepted.source,
        "ticket": accepted.ticket.id,
        "plan": planned_content(&accepted.planned),
    })
}

const FIND: &str = "SELECT id, kind, number, salt FROM sessions WHERE tenant = $1 AND kind = $2 AND number = $3 AND instance = $4";

fn find_by(key: &SessionKey) -> [Arg<'_>; 4] {
    [(&key.tenant).into(), key.name.kind.as_str().into(), key.name.number.into(), (&key.instance).into()]
}

fn find(tx: &Tx<'_>, key: &SessionKey) -> Result<Option<SessionRow>> {
    tx.first(FIND, &find_by(key), |row| session(row, 0))
}

fn insert_session(tx: &Tx<'_>, accepted: &Accepted) -> Result<SessionRow> {
    let (key, ticket, salt) = (&accepted.key, &accepted.ticket, random()?[..16].to_vec());
    let id = tx.insert(
        "INSERT INTO sessions (id, tenant, instance, kind, number, ticket, ticket_url, salt) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        args![
            &key.tenant,
            &key.instance,
            key.name.kind.as_str(),
            key.name.number,
            ticket.id.as_ref(),
            ticket.url.as_ref(),
            &salt
        ],
    )?;
    Ok(SessionRow { id, name: key.name, salt })
}

/// The delivery of a revision that is stored already; none when it is not stored.
fn duplicate(tx: &Tx<'_>, session: i64, of: &Digest) -> Result<Option<Option<DeliveryId>>> {
    tx.first(
        "SELECT (SELECT max(id) FROM deliveries WHERE session = $1 AND revision = revisions.id AND notice IS NULL) \
         FROM revisions WHERE session = $1 AND digest = $2",
        args![session, of],
        |row| Ok(row.get::<Option<i64>>(0)?.map(DeliveryId)),
    )
}

pub(super) fn history(tx: &Tx<'_>, session: i64) -> Result<History> {
    let sql = "SELECT updated_at, digest FROM revisions WHERE session = $1";
    let revisions = tx.query(sql, args![session], |row| Ok((moment(row, 0)?, row.digest(1)?)))?;
    let deliveries = tx.query(
        "SELECT d.id, d.state, d.ticket, d.message_id, r.digest, d.channel FROM deliveries d JOIN revisions r ON r.id = d.revision \
         WHERE d.session = $1 AND d.notice IS NULL ORDER BY d.id",
        args![session],
        |row| {
            Ok(Past {
                id: DeliveryId(row.get(0)?),
                channel: row.word(5)?,
                state: row.word(1)?,
                ticket: row.get(2)?,
                message_id: row.get(3)?,
                revision: row.digest(4)?,
            })
        },
    )?;
    let learned = "SELECT learned_ticket FROM sessions WHERE id = $1 AND learned_ticket IS NOT NULL";
    let ticket = tx.first(learned, args![session], |row| row.get(0))?;
    Ok(History { revisions: revisions.len() as u64, newest: revisions.into_iter().max(), ticket, deliveries })
}

/// What a new delivery is about.
pub(super) struct Placed<'p> {
    pub(super) tenant: &'p String,
    pub(super) session: i64,
    pub(super) revision: i64,
    pub(super) ticket: Option<&'p String>,
    /// The channel of one that has no message.
    pub(super) channel: Channel,
    pub(super) fallback: Option<Channel>,
    pub(super) instead_of: Option<DeliveryId>,
    pub(super) now: Timestamp,
}

pub(super) fn insert_delivery(
    tx: &Tx<'_>,
    placed: &Placed<'_>,
    planned: &Planned,
    raw: &[u8],
) -> Result<Option<DeliveryId>> {
    let (state, reason, due, message) = match planned {
        Planned::Nothing(_) => return Ok(None),
        Planned::Message { message, hold: Some(reason), .. } => {
            (State::Held, reason.clone(), None, Some(message))
        }
        Planned::Message { message, due, waits_for, hold: None, .. } => {
            let reason = if waits_for.is_empty() { String::new() } else { format!("waits for {waits_for}") };
            (State::Pending, reason, Some(*due), Some(message))
        }
        Planned::Hold(reason) => (State::Held, reason.clone(), None, None),
    };
    let id = tx.insert(
        "INSERT INTO deliveries (id, tenant, session, revision, channel, ticket, target, message_id, state, reason, due, \
         fallback, instead_of, created_at, changed_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        args![
            placed.tenant,
            placed.session,
            placed.revision,
            message.map_or(placed.channel, Message::channel).as_str(),
            placed.ticket,
            message.map(Message::target),
            message.map(Message::id),
            state.as_str(),
            &reason,
            due,
            placed.fallback.map(Channel::as_str),
            placed.instead_of.map(|id| id.0),
            placed.now,
            placed.now
        ],
    )?;
    if let Some(message) = message {
        message.columns(raw, |head, tail| {
            tx.execute(
                "INSERT INTO messages (delivery, envelope_from, head, tail) VALUES ($1, $2, $3, $4)",
                args![id, message.envelope_from(), head, tail],
            )
        })?;
    }
    Ok(Some(DeliveryId(id)))
}

fn supersede(
    tx: &Tx<'_>,
    session: &SessionRow,
    replaced: DeliveryId,
    by: Option<DeliveryId>,
    accepted: &Accepted,
) -> Result<()> {
    tx.execute(
        "UPDATE deliveries SET state = 'superseded', reason = 'a newer revision took its place', due = NULL, \
         changed_at = $1 WHERE id = $2 AND session = $3",
        args![accepted.now, replaced.0, session.id],
    )?;
    let content = json!({ "by": by.map(|by| by.0) });
    let entry = Entry {
        event: Event::Superseded,
        at: accepted.now,
        session: Some(session.name),
        delivery: Some(replaced),
        content,
    };
    append(tx, &accepted.key.tenant, Some(session), &entry);
    Ok(())
}

fn quarantine(tx: &Tx<'_>, quarantined: &Quarantined) -> Result<bool> {
    let Quarantined { tenant, source, reason, raw, now } = quarantined;
    let of = Digest::of(raw);
    let known = "SELECT id FROM quarantine WHERE tenant = $1 AND source = $2 AND digest = $3";
    if tx.any(known, args![tenant, source, &of])? {
        return Ok(false);
    }
    tx.insert(
        "INSERT INTO quarantine (id, tenant, source, at, reason, digest, raw) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        args![tenant, source, *now, reason, &of, raw],
    )?;
    let content = json!({ "source": source, "reason": reason, "digest": of.to_string() });
    let entry = Entry { event: Event::Quarantined, at: *now, session: None, delivery: None, content };
    append(tx, tenant, None, &entry);
    Ok(true)
}
