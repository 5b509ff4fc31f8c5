//! Questions to the store. They read a snapshot and change nothing.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};

use super::{Store, StoreError, UNSETTLED, digest, moment, name, optional_moment, word};
use crate::ids::{DeliveryId, Digest, SessionName};
use crate::outbox::State;

/// Which deliveries; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These numbers.
    pub ids: Vec<DeliveryId>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// About this session.
    pub session: Option<SessionName>,
    /// For this ticket.
    pub ticket: Option<String>,
    /// To this address.
    pub recipient: Option<String>,
    /// In one of these states.
    pub states: Vec<State>,
    /// Changed at this moment or later.
    pub since: Option<Timestamp>,
    /// The most rows, the newest.
    pub most: Option<u32>,
}

/// One delivery as the lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number.
    pub id: DeliveryId,
    /// Whose.
    pub tenant: String,
    /// About what.
    pub session: SessionName,
    /// For which ticket.
    pub ticket: Option<String>,
    /// To whom; none for one that could not be composed.
    pub recipient: Option<String>,
    /// The Message-ID without brackets.
    pub message_id: Option<String>,
    /// Where it stands.
    pub state: State,
    /// Why.
    pub reason: String,
    /// When it goes on by itself.
    pub due: Option<Timestamp>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its state changed last.
    pub changed_at: Timestamp,
}

/// One revision of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRow {
    /// The version stamp.
    pub updated_at: Timestamp,
    /// The digest of the bytes.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// The delivery.
    pub delivery: DeliveryId,
    /// From 1.
    pub number: u32,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended; none while it runs.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<String>,
    /// The relay as `host:port`.
    pub relay: Option<String>,
    /// How the connection was secured.
    pub tls: Option<String>,
    /// The step that decided.
    pub stage: Option<String>,
    /// The server's reply code.
    pub code: Option<u16>,
    /// The server's words.
    pub answer: Option<String>,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place in the tenant's chain.
    pub number: i64,
    /// The chained text.
    pub record: String,
    /// The details; none once erased.
    pub content: Option<String>,
    /// The chain's hash up to here.
    pub hash: Digest,
}

/// Everything about one session.
#[derive(Debug, Clone)]
pub struct Story {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub session: SessionName,
    /// The newest revision's ticket.
    pub ticket: Option<String>,
    /// And its URL.
    pub ticket_url: Option<String>,
    /// All revisions, in the order of their arrival.
    pub revisions: Vec<RevisionRow>,
    /// All deliveries, oldest first.
    pub deliveries: Vec<DeliveryRow>,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptRow>,
    /// All log records, oldest first.
    pub records: Vec<LogRow>,
}

/// One file that was not a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub tenant: String,
    /// The file.
    pub source: String,
    /// When it was read.
    pub at: Timestamp,
    /// Place and reason.
    pub reason: String,
    /// How many octets are kept.
    pub octets: u64,
}

impl Store {
    /// The deliveries that the filter chooses, oldest first.
    pub fn deliveries(&self, filter: &Filter) -> Result<Vec<DeliveryRow>, StoreError> {
        self.read(|connection| list(connection, filter))
    }

    /// Everything about a session, for each tenant that has one of that name.
    pub fn stories(&self, session: SessionName, tenant: Option<&str>) -> Result<Vec<Story>, StoreError> {
        self.read(|connection| {
            let mut find = connection.prepare(
                "SELECT id, tenant, ticket, ticket_url FROM sessions WHERE kind = ? AND number = ? AND (?3 IS NULL OR tenant = ?3) ORDER BY tenant",
            )?;
            let found = find.query_map(rusqlite::params![session.kind.as_str(), session.number, tenant], |row| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            let found: Vec<(i64, String, Option<String>, Option<String>)> = found.collect::<Result<_, _>>()?;
            let story = |(id, tenant, ticket, ticket_url): (i64, String, _, _)| {
                let filter = Filter { session: Some(session), tenant: Some(tenant.clone()), ..Filter::default() };
                Ok(Story {
                    session,
                    ticket,
                    ticket_url,
                    revisions: all(connection, "SELECT updated_at, digest, source, accepted_at FROM revisions WHERE session = ? ORDER BY id", id, revision)?,
                    deliveries: list(connection, &filter)?,
                    attempts: all(connection, ATTEMPTS, id, attempt)?,
                    records: all(connection, "SELECT number, record, content, hash FROM log WHERE session = ? ORDER BY number", id, log_row)?,
                    tenant,
                })
            };
            found.into_iter().map(story).collect()
        })
    }

    /// The bytes of a session's newest revision.
    pub fn newest_file(
        &self,
        session: SessionName,
        tenant: Option<&str>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            let mut newest = connection.prepare(
                "SELECT r.raw FROM revisions r JOIN sessions s ON s.id = r.session \
                 WHERE s.kind = ? AND s.number = ? AND (?3 IS NULL OR s.tenant = ?3) \
                 ORDER BY s.tenant, r.updated_at DESC, r.digest DESC LIMIT 1",
            )?;
            let values = rusqlite::params![session.kind.as_str(), session.number, tenant];
            newest.query_row(values, |row| row.get(0)).optional()
        })
    }

    /// The whole chain of a tenant's log, oldest first.
    pub fn chain(&self, tenant: &str) -> Result<Vec<LogRow>, StoreError> {
        self.read(|connection| {
            let mut chain = connection
                .prepare("SELECT number, record, content, hash FROM log WHERE tenant = ? ORDER BY number")?;
            chain.query_map([tenant], log_row)?.collect()
        })
    }

    /// The bytes of a delivery's message; none where it has none.
    pub fn message(&self, id: DeliveryId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            connection
                .query_row("SELECT wire FROM messages WHERE delivery = ?", [id.0], |row| row.get(0))
                .optional()
        })
    }

    /// The files in quarantine, oldest first.
    pub fn quarantined(&self, tenant: Option<&str>) -> Result<Vec<QuarantineRow>, StoreError> {
        self.read(|connection| {
            let mut rows = connection.prepare(
                "SELECT id, tenant, source, at, reason, length(raw) FROM quarantine WHERE ?1 IS NULL OR tenant = ?1 ORDER BY id",
            )?;
            let row = |row: &Row<'_>| {
                Ok(QuarantineRow { id: row.get(0)?, tenant: row.get(1)?, source: row.get(2)?, at: moment(row, 3)?, reason: row.get(4)?, octets: row.get(5)? })
            };
            rows.query_map([tenant], row)?.collect()
        })
    }

    /// The bytes of one quarantined file.
    pub fn quarantined_bytes(&self, id: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            connection.query_row("SELECT raw FROM quarantine WHERE id = ?", [id], |row| row.get(0)).optional()
        })
    }

    /// The files of a tenant's folder that are dealt with, each with the stamp it had then.
    pub fn noted_files(&self, tenant: &str, mut each: impl FnMut(String, String)) -> Result<(), StoreError> {
        self.read(|connection| {
            let mut files = connection.prepare("SELECT path, stamp FROM files WHERE tenant = ?")?;
            let mut rows = files.query([tenant])?;
            while let Some(row) = rows.next()? {
                each(row.get(0)?, row.get(1)?);
            }
            Ok(())
        })
    }
}

const ATTEMPTS: &str = "SELECT a.delivery, a.number, a.began_at, a.ended_at, a.outcome, a.relay, a.tls, a.stage, a.code, a.answer \
    FROM attempts a JOIN deliveries d ON d.id = a.delivery WHERE d.session = ? ORDER BY a.delivery, a.number";

fn all<T>(
    connection: &Connection,
    sql: &str,
    id: i64,
    row: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([id], row)?.collect()
}

fn revision(row: &Row<'_>) -> rusqlite::Result<RevisionRow> {
    Ok(RevisionRow {
        updated_at: moment(row, 0)?,
        digest: digest(row, 1)?,
        source: row.get(2)?,
        accepted_at: moment(row, 3)?,
    })
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRow> {
    Ok(AttemptRow {
        delivery: DeliveryId(row.get(0)?),
        number: row.get(1)?,
        began_at: moment(row, 2)?,
        ended_at: optional_moment(row, 3)?,
        outcome: row.get(4)?,
        relay: row.get(5)?,
        tls: row.get(6)?,
        stage: row.get(7)?,
        code: row.get(8)?,
        answer: row.get(9)?,
    })
}

fn log_row(row: &Row<'_>) -> rusqlite::Result<LogRow> {
    Ok(LogRow { number: row.get(0)?, record: row.get(1)?, content: row.get(2)?, hash: digest(row, 3)? })
}

/// The deliveries that a filter chooses, oldest first; with `most`, the newest of them.
pub(super) fn list(connection: &Connection, filter: &Filter) -> rusqlite::Result<Vec<DeliveryRow>> {
    let mut conditions: Vec<String> = Vec::new();
    let mut values: Vec<Value> = Vec::new();
    let mut among = |column: &str, wanted: Vec<Value>| {
        if !wanted.is_empty() {
            conditions.push(format!("{column} IN ({})", vec!["?"; wanted.len()].join(", ")));
            values.extend(wanted);
        }
    };
    let text = |text: &Option<String>| text.iter().map(|text| Value::Text(text.clone())).collect::<Vec<_>>();
    among("d.id", filter.ids.iter().map(|id| Value::Integer(id.0)).collect());
    among("d.tenant", text(&filter.tenant));
    among("s.kind", filter.session.iter().map(|session| Value::Text(session.kind.to_string())).collect());
    among(
        "s.number",
        filter
            .session
            .iter()
            .filter_map(|session| i64::try_from(session.number).ok())
            .map(Value::Integer)
            .collect(),
    );
    among("d.ticket", text(&filter.ticket));
    among("d.target", text(&filter.recipient));
    among("d.state", filter.states.iter().map(|state| Value::Text(state.to_string())).collect());
    let over = [State::Accepted, State::Superseded, State::Cancelled];
    if !filter.states.is_empty() && !filter.states.iter().any(|state| over.contains(state)) {
        conditions.push(UNSETTLED.to_owned());
    }
    if let Some(since) = filter.since {
        conditions.push("d.changed_at >= ?".to_owned());
        values.push(Value::Integer(since.as_millisecond()));
    }
    let conditions = if conditions.is_empty() { "1".to_owned() } else { conditions.join(" AND ") };
    let sql = format!(
        "SELECT d.id, d.tenant, s.kind, s.number, d.ticket, d.target, d.message_id, d.state, d.reason, d.due, d.attempts, \
         d.created_at, d.changed_at FROM deliveries d JOIN sessions s ON s.id = d.session WHERE {conditions} \
         ORDER BY d.id DESC LIMIT {}",
        filter.most.map_or(-1, i64::from)
    );
    let mut rows: Vec<DeliveryRow> =
        connection.prepare(&sql)?.query_map(params_from_iter(values), delivery)?.collect::<Result<_, _>>()?;
    rows.reverse();
    Ok(rows)
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: DeliveryId(row.get(0)?),
        tenant: row.get(1)?,
        session: name(row, 2)?,
        ticket: row.get(4)?,
        recipient: row.get(5)?,
        message_id: row.get(6)?,
        state: word(row, 7)?,
        reason: row.get(8)?,
        due: optional_moment(row, 9)?,
        attempts: row.get(10)?,
        created_at: moment(row, 11)?,
        changed_at: moment(row, 12)?,
    })
}
