//! Accepting a revision: the session, its bytes, what was planned and the log record, in one transaction.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::{SessionRow, Store, StoreError, append, digest, moment, name, random, word};
use crate::compose::Composed;
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
        message: Composed,
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
    pub async fn accept(&self, accepted: Accepted) -> Result<Acceptance, StoreError> {
        self.write(move |connection| accept(connection, &accepted)).await
    }

    /// Keeps bytes that are not a session. The same bytes from the same place are kept once; true for new ones.
    pub async fn quarantine(&self, quarantined: Quarantined) -> Result<bool, StoreError> {
        self.write(move |connection| quarantine(connection, &quarantined)).await
    }

    /// The bytes of one revision of a session.
    pub async fn revision(&self, key: SessionKey, of: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.write(move |connection| {
            let Some(session) = find(connection, &key)? else { return Ok(None) };
            connection
                .prepare_cached("SELECT raw FROM revisions WHERE session = ? AND digest = ?")?
                .query_row(params![session.id, of.0], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Notes that watched files are dealt with as they are now; each is a path and a stamp.
    pub async fn note_files(&self, tenant: String, files: Vec<(String, String)>) -> Result<(), StoreError> {
        self.write(move |connection| {
            let mut note = connection.prepare_cached(
                "INSERT INTO files VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET stamp = excluded.stamp",
            )?;
            files.iter().try_for_each(|(path, stamp)| note.execute([&tenant, path, stamp]).map(drop))
        })
        .await
    }
}

fn accept(connection: &Connection, accepted: &Accepted) -> rusqlite::Result<Acceptance> {
    let known = find(connection, &accepted.key)?;
    let session = match known {
        None => insert_session(connection, accepted)?,
        Some(session) => {
            if let Some(delivery) = duplicate(connection, session.id, &accepted.digest)? {
                return Ok(Acceptance::Duplicate(delivery));
            }
            let history = history(connection, session.id)?;
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
                update_ticket(connection, session.id, accepted)?;
            }
            session
        }
    };
    connection
        .prepare_cached("INSERT INTO revisions (session, updated_at, digest, source, accepted_at, raw) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![
            session.id,
            accepted.updated_at.as_millisecond(),
            accepted.digest.0,
            accepted.source,
            accepted.now.as_millisecond(),
            *accepted.raw
        ])?;
    let revision = connection.last_insert_rowid();
    let delivery = insert_delivery(connection, &session, revision, accepted)?;
    for replaced in &accepted.supersedes {
        supersede(connection, &session, *replaced, delivery, accepted)?;
    }
    let mut content = json!({
        "revision": accepted.digest.to_string(),
        "updated_at": accepted.updated_at.to_string(),
        "source": accepted.source,
        "ticket": accepted.ticket.id,
    });
    content["plan"] = match &accepted.planned {
        Planned::Nothing(why) => json!({ "nothing": why }),
        Planned::Hold(why) => json!({ "hold": why }),
        Planned::Message { message, due, hold, .. } => json!({
            "send_to": message.recipient.as_str(),
            "from": message.envelope_from.as_str(),
            "message_id": message.message_id,
            "sha256": Digest::of(&message.wire).to_string(),
            "due": due.to_string(),
            "hold": hold,
        }),
    };
    let entry =
        Entry { event: Event::Accepted, at: accepted.now, session: Some(session.name), delivery, content };
    append(connection, &accepted.key.tenant, Some(&session), &entry)?;
    Ok(Acceptance::Stored(delivery))
}

fn find(connection: &Connection, key: &SessionKey) -> rusqlite::Result<Option<SessionRow>> {
    connection
        .prepare_cached("SELECT id, kind, number, salt FROM sessions WHERE tenant = ? AND kind = ? AND number = ? AND instance = ?")?
        .query_row(params![key.tenant, key.name.kind.as_str(), key.name.number, key.instance], |row| {
            Ok(SessionRow { id: row.get(0)?, name: name(row, 1)?, salt: row.get(3)? })
        })
        .optional()
}

fn insert_session(connection: &Connection, accepted: &Accepted) -> rusqlite::Result<SessionRow> {
    let (key, salt) = (&accepted.key, random()?[..16].to_vec());
    connection
        .prepare_cached("INSERT INTO sessions (tenant, instance, kind, number, ticket, ticket_url, salt) VALUES (?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            key.tenant, key.instance, key.name.kind.as_str(), key.name.number, accepted.ticket.id, accepted.ticket.url, salt
        ])?;
    Ok(SessionRow { id: connection.last_insert_rowid(), name: key.name, salt })
}

fn update_ticket(connection: &Connection, session: i64, accepted: &Accepted) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE sessions SET ticket = ?, ticket_url = ? WHERE id = ?")?
        .execute(params![accepted.ticket.id, accepted.ticket.url, session])
        .map(drop)
}

/// The delivery of a revision that is stored already; none when it is not stored.
fn duplicate(
    connection: &Connection,
    session: i64,
    of: &Digest,
) -> rusqlite::Result<Option<Option<DeliveryId>>> {
    connection
        .prepare_cached(
            "SELECT (SELECT max(id) FROM deliveries WHERE session = ?1 AND revision = revisions.id) \
             FROM revisions WHERE session = ?1 AND digest = ?2",
        )?
        .query_row(params![session, of.0], |row| Ok(row.get::<_, Option<i64>>(0)?.map(DeliveryId)))
        .optional()
}

fn history(connection: &Connection, session: i64) -> rusqlite::Result<History> {
    let mut revisions =
        connection.prepare_cached("SELECT updated_at, digest FROM revisions WHERE session = ?")?;
    let revisions: Vec<(Timestamp, Digest)> = revisions
        .query_map([session], |row| Ok((moment(row, 0)?, digest(row, 1)?)))?
        .collect::<Result<_, _>>()?;
    let mut deliveries = connection.prepare_cached(
        "SELECT d.id, d.state, d.ticket, d.message_id, r.digest FROM deliveries d JOIN revisions r ON r.id = d.revision \
         WHERE d.session = ? ORDER BY d.id",
    )?;
    let past = deliveries.query_map([session], |row| {
        Ok(Past {
            id: DeliveryId(row.get(0)?),
            state: word(row, 1)?,
            ticket: row.get(2)?,
            message_id: row.get(3)?,
            revision: digest(row, 4)?,
        })
    })?;
    Ok(History {
        revisions: revisions.len() as u64,
        newest: revisions.into_iter().max(),
        deliveries: past.collect::<Result<_, _>>()?,
    })
}

fn insert_delivery(
    connection: &Connection,
    session: &SessionRow,
    revision: i64,
    accepted: &Accepted,
) -> rusqlite::Result<Option<DeliveryId>> {
    let (state, reason, due, message) = match &accepted.planned {
        Planned::Nothing(_) => return Ok(None),
        Planned::Message { message, hold: Some(reason), .. } => {
            (State::Held, reason.clone(), None, Some(message))
        }
        Planned::Message { message, due, waits_for, hold: None } => {
            let reason = if waits_for.is_empty() { String::new() } else { format!("waits for {waits_for}") };
            (State::Pending, reason, Some(*due), Some(message))
        }
        Planned::Hold(reason) => (State::Held, reason.clone(), None, None),
    };
    let now = accepted.now.as_millisecond();
    connection
        .prepare_cached(
            "INSERT INTO deliveries (tenant, session, revision, channel, ticket, target, message_id, state, reason, due, \
             created_at, changed_at) VALUES (?, ?, ?, 'email', ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            accepted.key.tenant,
            session.id,
            revision,
            accepted.ticket.id,
            message.map(|message| message.recipient.as_str()),
            message.map(|message| message.message_id.as_str()),
            state.as_str(),
            reason,
            due.map(Timestamp::as_millisecond),
            now,
            now
        ])?;
    let id = connection.last_insert_rowid();
    if let Some(message) = message {
        connection
            .prepare_cached("INSERT INTO messages (delivery, envelope_from, wire) VALUES (?, ?, ?)")?
            .execute(params![id, message.envelope_from.as_str(), message.wire])?;
    }
    Ok(Some(DeliveryId(id)))
}

fn supersede(
    connection: &Connection,
    session: &SessionRow,
    replaced: DeliveryId,
    by: Option<DeliveryId>,
    accepted: &Accepted,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = 'superseded', reason = 'a newer revision took its place', due = NULL, changed_at = ? \
             WHERE id = ? AND session = ?",
        )?
        .execute(params![accepted.now.as_millisecond(), replaced.0, session.id])?;
    let content = json!({ "by": by.map(|by| by.0) });
    let entry = Entry {
        event: Event::Superseded,
        at: accepted.now,
        session: Some(session.name),
        delivery: Some(replaced),
        content,
    };
    append(connection, &accepted.key.tenant, Some(session), &entry)
}

fn quarantine(connection: &Connection, quarantined: &Quarantined) -> rusqlite::Result<bool> {
    let Quarantined { tenant, source, reason, raw, now } = quarantined;
    let of = Digest::of(raw);
    let new = connection
        .prepare_cached("INSERT OR IGNORE INTO quarantine (tenant, source, at, reason, digest, raw) VALUES (?, ?, ?, ?, ?, ?)")?
        .execute(params![tenant, source, now.as_millisecond(), reason, of.0, raw])?;
    if new > 0 {
        let content = json!({ "source": source, "reason": reason, "digest": of.to_string() });
        append(
            connection,
            tenant,
            None,
            &Entry { event: Event::Quarantined, at: *now, session: None, delivery: None, content },
        )?;
    }
    Ok(new > 0)
}
