//! What a person does to deliveries by hand; each is a log record.

use jiff::Timestamp;
use serde_json::json;

use super::engine::{Foresight, Result, Tx, args};
use super::query::{Filter, list};
use super::{Scope, Store, StoreError, append, session};
use crate::config::tenant::Channel;
use crate::ids::DeliveryId;
use crate::log::{Entry, Event};
use crate::outbox::State;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Try again now, also what was given up.
    Retry,
    /// Wait for a person.
    Hold,
    /// Let what was held go.
    Release,
    /// Never send.
    Cancel,
}

/// What came of it for one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The delivery.
    pub id: DeliveryId,
    /// Its state now, or why it stays as it is.
    pub result: std::result::Result<State, String>,
}

impl Store {
    /// Does `change` to every delivery that the filter chooses, and says for each what came of it.
    pub async fn change(
        &self,
        filter: Filter,
        change: Change,
        now: Timestamp,
    ) -> std::result::Result<Vec<Changed>, StoreError> {
        let scope = filter.tenant.clone().map_or(Scope::All, Scope::Tenant);
        self.write(scope, move |tx| {
            let rows = list(tx, &filter)?;
            rows.iter().map(|row| one(tx, row.id, row.state, row.recipient.is_some(), change, now)).collect()
        })
        .await
    }

    /// Stops, or lets go on, all sending of a tenant. False when it was so already.
    pub async fn pause(
        &self,
        tenant: String,
        pause: bool,
        now: Timestamp,
    ) -> std::result::Result<bool, StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| {
            if is_paused(tx, &tenant)? == pause {
                return Ok(false);
            }
            let (event, sql) = if pause {
                (Event::Paused, "INSERT INTO settings (name, value) VALUES ($1, $2)")
            } else {
                (Event::Resumed, "DELETE FROM settings WHERE name = $1 AND value = $2")
            };
            tx.execute(sql, args![&paused(&tenant), &b"paused"[..]])?;
            append(
                tx,
                &tenant,
                None,
                &Entry { event, at: now, session: None, delivery: None, content: json!({}) },
            );
            Ok(true)
        })
        .await
    }

    /// Whether all sending of a tenant is stopped.
    pub async fn is_paused(&self, tenant: String) -> std::result::Result<bool, StoreError> {
        let look = move |tx: &Tx<'_>| is_paused(tx, &tenant);
        self.write_foreseen(Scope::Nobody, Foresight::default(), look).await
    }

    /// Holds for a person what waits for a channel that the tenant does not have any more, and says how many deliveries
    /// those are.
    pub async fn hold_channel(
        &self,
        tenant: String,
        channel: Channel,
        now: Timestamp,
    ) -> std::result::Result<usize, StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| {
            let waiting = "SELECT id FROM deliveries WHERE tenant = $1 AND channel = $2 AND due IS NOT NULL ORDER BY id";
            let waiting =
                tx.query(waiting, args![&tenant, channel.as_str()], |row| row.get(0).map(DeliveryId))?;
            let reason = format!("the tenant has no channel {channel} any more");
            waiting.iter().try_for_each(|id| hold(tx, &tenant, *id, &reason, now))?;
            Ok(waiting.len())
        })
        .await
    }
}

/// The name of a tenant's setting.
fn paused(tenant: &str) -> String {
    format!("paused {tenant}")
}

pub(super) fn is_paused(tx: &Tx<'_>, tenant: &str) -> Result<bool> {
    tx.any("SELECT name FROM settings WHERE name = $1", args![&paused(tenant)])
}

fn one(
    tx: &Tx<'_>,
    id: DeliveryId,
    state: State,
    composed: bool,
    change: Change,
    now: Timestamp,
) -> Result<Changed> {
    let (event, next, from): (_, _, &[State]) = match change {
        Change::Retry => {
            let from = &[
                State::Pending,
                State::Deferred,
                State::Uncertain,
                State::Rejected,
                State::Expired,
                State::Cancelled,
            ];
            (Event::Retried, State::Pending, from)
        }
        Change::Hold => (Event::Held, State::Held, &[State::Pending, State::Deferred, State::Uncertain]),
        Change::Release => (Event::Released, State::Pending, &[State::Held]),
        Change::Cancel => (
            Event::Cancelled,
            State::Cancelled,
            &[
                State::Pending,
                State::Deferred,
                State::Uncertain,
                State::Held,
                State::Rejected,
                State::Expired,
            ],
        ),
    };
    if !from.contains(&state) {
        return Ok(Changed { id, result: Err(format!("is {state}")) });
    }
    if next == State::Pending && !composed {
        let why = "has no message: it waits for a revision with a usable ticket id";
        return Ok(Changed { id, result: Err(why.to_owned()) });
    }
    if change == Change::Retry && newer_went_out(tx, id)? {
        return Ok(Changed { id, result: Err("is older than an update that went out after it".to_owned()) });
    }
    let due = (next == State::Pending).then_some(now);
    tx.execute(
        "UPDATE deliveries SET state = $1, reason = $2, due = $3, changed_at = $4 WHERE id = $5",
        args![next.as_str(), &format!("{} by hand", event.as_str()), due, now, id.0],
    )?;
    let about = "SELECT d.tenant, s.id, s.kind, s.number, s.salt FROM deliveries d \
                 JOIN sessions s ON s.id = d.session WHERE d.id = $1";
    let about = tx.first(about, args![id.0], |row| Ok((row.get::<String>(0)?, session(row, 1)?)))?;
    let Some((tenant, session)) = about else {
        return Ok(Changed { id, result: Err("is not there".to_owned()) });
    };
    let content = json!({ "from": state.as_str(), "to": next.as_str() });
    append(
        tx,
        &tenant,
        Some(&session),
        &Entry { event, at: now, session: Some(session.name), delivery: Some(id), content },
    );
    Ok(Changed { id, result: Ok(next) })
}

/// Holds a waiting delivery for a person, for a reason that the program found.
pub(super) fn hold(tx: &Tx<'_>, tenant: &str, id: DeliveryId, reason: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE deliveries SET state = 'held', reason = $1, due = NULL, changed_at = $2 WHERE id = $3",
        args![reason, now, id.0],
    )?;
    let about = "SELECT s.id, s.kind, s.number, s.salt FROM deliveries d JOIN sessions s ON s.id = d.session \
                 WHERE d.id = $1";
    let Some(session) = tx.first(about, args![id.0], |row| session(row, 0))? else { return Ok(()) };
    let content = json!({ "to": State::Held.as_str(), "reason": reason });
    let entry =
        Entry { event: Event::Held, at: now, session: Some(session.name), delivery: Some(id), content };
    append(tx, tenant, Some(&session), &entry);
    Ok(())
}

/// Whether a later delivery of the same session may have arrived: sending this one now would bring old news.
fn newer_went_out(tx: &Tx<'_>, id: DeliveryId) -> Result<bool> {
    tx.any(
        "SELECT d.id FROM deliveries d JOIN deliveries later ON later.session = d.session AND later.id > d.id \
         WHERE d.id = $1 AND later.notice IS NULL AND later.state IN ('leased', 'sending', 'accepted', 'uncertain') LIMIT 1",
        args![id.0],
    )
}
