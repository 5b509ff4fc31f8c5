//! Taking deliveries to work on, and recording what came of it.
//!
//! An attempt is recorded before its first byte goes out and its outcome after its last came in, each in a
//! transaction of its own. Who finishes must hold the lease that the attempt began with.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::{Store, StoreError, UNSETTLED, append, moment, session_row};
use crate::config::tenant::Retry;
use crate::ids::DeliveryId;
use crate::log::{Entry, Event};
use crate::outbox::{Next, Outcome, Report, next};

/// The right to work on one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Which lease of it this is.
    pub number: i64,
}

/// One attempt that has begun.
#[derive(Debug, Clone)]
pub struct Work {
    /// The lease it was begun with.
    pub lease: Lease,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The name of the envelope: the local part of the Message-ID.
    pub envelope_id: String,
    /// The envelope's sender.
    pub envelope_from: String,
    /// The envelope's recipient.
    pub recipient: String,
    /// The message.
    pub wire: Vec<u8>,
}

impl Store {
    /// Leases up to `most` deliveries of the tenant that are due, the longest due first.
    pub async fn claim(&self, tenant: String, most: u32, now: Timestamp) -> Result<Vec<Lease>, StoreError> {
        // Without RETURNING, for which SQLite makes and frees a temporary table each time.
        self.write(move |connection| {
            let mut due = connection.prepare_cached(
                "SELECT id, lease + 1 FROM deliveries WHERE tenant = ? AND due <= ? ORDER BY due LIMIT ?",
            )?;
            let leases = due.query_map(params![tenant, now.as_millisecond(), most], |row| {
                Ok(Lease { delivery: DeliveryId(row.get(0)?), number: row.get(1)? })
            })?;
            let leases: Vec<Lease> = leases.collect::<Result<_, _>>()?;
            let mut claim = connection.prepare_cached(
                "UPDATE deliveries SET state = 'leased', due = NULL, lease = ? WHERE id = ?",
            )?;
            for lease in &leases {
                claim.execute([lease.number, lease.delivery.0])?;
            }
            Ok(leases)
        })
        .await
    }

    /// When the tenant's next delivery is due; none when none waits.
    pub async fn next_due(&self, tenant: String) -> Result<Option<Timestamp>, StoreError> {
        self.write(move |connection| {
            connection
                .prepare_cached(
                    "SELECT due FROM deliveries WHERE tenant = ? AND due IS NOT NULL ORDER BY due LIMIT 1",
                )?
                .query_row([&tenant], |row| moment(row, 0))
                .optional()
        })
        .await
    }

    /// Whether nothing of the tenant's waits for a time and nothing is being worked on.
    pub async fn is_idle(&self, tenant: String) -> Result<bool, StoreError> {
        self.write(move |connection| {
            let sql = format!(
                "SELECT NOT EXISTS (SELECT 1 FROM deliveries WHERE tenant = ?1 AND due IS NOT NULL) \
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE tenant = ?1 AND state = 'leased' AND {UNSETTLED}) \
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE tenant = ?1 AND state = 'sending' AND {UNSETTLED})"
            );
            connection.prepare_cached(&sql)?.query_row([&tenant], |row| row.get(0))
        })
        .await
    }

    /// Records that an attempt begins, and gives what it needs. None when the lease is no longer good.
    pub async fn begin_attempt(&self, lease: Lease, now: Timestamp) -> Result<Option<Work>, StoreError> {
        self.write(move |connection| begin(connection, lease, now)).await
    }

    /// Records how an attempt ended and what follows. None when the lease is no longer good: nothing changes.
    pub async fn finish_attempt(
        &self,
        lease: Lease,
        attempt: u32,
        report: Report,
        retry: Retry,
        now: Timestamp,
    ) -> Result<Option<Next>, StoreError> {
        self.write(move |connection| finish(connection, lease, attempt, &report, &retry, now)).await
    }

    /// Takes over what a process that died has left of the tenant's: leases return, attempts without an end are
    /// uncertain. Only for the holder of the tenant's delivery lock. Says how many attempts were uncertain.
    pub async fn recover(&self, tenant: String, retry: Retry, now: Timestamp) -> Result<usize, StoreError> {
        self.write(move |connection| recover(connection, &tenant, &retry, now)).await
    }

    /// Gives unused leases back.
    pub async fn release(&self, leases: Vec<Lease>, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| {
            leases.iter().try_for_each(|lease| {
                connection
                    .prepare_cached("UPDATE deliveries SET state = 'pending', due = ? WHERE id = ? AND lease = ? AND state = 'leased'")?
                    .execute(params![now.as_millisecond(), lease.delivery.0, lease.number])
                    .map(drop)
            })
        })
        .await
    }
}

fn begin(connection: &Connection, lease: Lease, now: Timestamp) -> rusqlite::Result<Option<Work>> {
    let leased: Option<(u32, String, String)> = connection
        .prepare_cached(
            "SELECT attempts + 1, target, message_id FROM deliveries WHERE id = ? AND lease = ? AND state = 'leased'",
        )?
        .query_row([lease.delivery.0, lease.number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((attempt, recipient, mut envelope_id)) = leased else { return Ok(None) };
    envelope_id.truncate(envelope_id.find('@').unwrap_or(envelope_id.len()));
    connection
        .prepare_cached("UPDATE deliveries SET state = 'sending', attempts = ?, changed_at = ? WHERE id = ?")?
        .execute(params![attempt, now.as_millisecond(), lease.delivery.0])?;
    connection
        .prepare_cached("INSERT INTO attempts (delivery, number, began_at) VALUES (?, ?, ?)")?
        .execute(params![lease.delivery.0, attempt, now.as_millisecond()])?;
    let (envelope_from, wire) = connection
        .prepare_cached("SELECT envelope_from, wire FROM messages WHERE delivery = ?")?
        .query_row([lease.delivery.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Some(Work { lease, attempt, envelope_id, envelope_from, recipient, wire }))
}

fn finish(
    connection: &Connection,
    lease: Lease,
    attempt: u32,
    report: &Report,
    retry: &Retry,
    now: Timestamp,
) -> rusqlite::Result<Option<Next>> {
    let held: Option<(String, i64, String, Timestamp)> = connection
        .prepare_cached("SELECT tenant, session, target, created_at FROM deliveries WHERE id = ? AND lease = ? AND state = 'sending'")?
        .query_row(params![lease.delivery.0, lease.number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, moment(row, 3)?)))
        .optional()?;
    let Some((tenant, session, recipient, created)) = held else { return Ok(None) };
    let next = next(report, retry, lease.delivery, attempt, created, now);
    connection
        .prepare_cached("UPDATE deliveries SET state = ?, reason = ?, due = ?, changed_at = ? WHERE id = ?")?
        .execute(params![
            next.state.as_str(),
            next.reason,
            next.due.map(Timestamp::as_millisecond),
            now.as_millisecond(),
            lease.delivery.0
        ])?;
    connection
        .prepare_cached(
            "UPDATE attempts SET ended_at = ?, outcome = ?, relay = ?, tls = ?, stage = ?, code = ?, answer = ? \
             WHERE delivery = ? AND number = ?",
        )?
        .execute(params![
            now.as_millisecond(),
            report.outcome.as_str(),
            report.relay,
            report.tls,
            report.stage,
            report.code,
            report.text,
            lease.delivery.0,
            attempt
        ])?;
    let session = session_row(connection, session)?;
    let content = json!({
        "attempt": attempt,
        "recipient": recipient,
        "outcome": report.outcome.as_str(),
        "relay": report.relay,
        "tls": report.tls,
        "stage": report.stage,
        "code": report.code,
        "enhanced": report.enhanced,
        "answer": report.text,
        "replies": report.replies,
        "state": next.state.as_str(),
    });
    let entry = Entry {
        event: Event::Attempted,
        at: now,
        session: Some(session.name),
        delivery: Some(lease.delivery),
        content,
    };
    append(connection, &tenant, Some(&session), &entry)?;
    Ok(Some(next))
}

fn recover(connection: &Connection, tenant: &str, retry: &Retry, now: Timestamp) -> rusqlite::Result<usize> {
    let returned = "UPDATE deliveries SET state = 'pending', due = ? WHERE tenant = ? AND state = 'leased'";
    connection.execute(&format!("{returned} AND {UNSETTLED}"), params![now.as_millisecond(), tenant])?;
    let begun = "SELECT id, lease, attempts FROM deliveries WHERE tenant = ? AND state = 'sending'";
    let mut begun = connection.prepare(&format!("{begun} AND {UNSETTLED} ORDER BY id"))?;
    let begun: Vec<(Lease, u32)> = begun
        .query_map([tenant], |row| {
            Ok((Lease { delivery: DeliveryId(row.get(0)?), number: row.get(1)? }, row.get(2)?))
        })?
        .collect::<Result<_, _>>()?;
    // The relay is not to blame: what is sent again goes at once.
    let at_once = Retry { first: SignedDuration::ZERO, ..*retry };
    for (lease, attempt) in &begun {
        let report = Report {
            outcome: Outcome::Uncertain,
            relay: String::new(),
            tls: None,
            stage: "restart",
            code: None,
            enhanced: None,
            text: "the program ended during the attempt".to_owned(),
            replies: Vec::new(),
        };
        finish(connection, *lease, *attempt, &report, &at_once, now)?;
    }
    Ok(begun.len())
}
