//! What a person does to deliveries by hand; each is a log record.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::json;

use super::query::{Filter, list};
use super::{Store, StoreError, append, session_row};
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
    pub result: Result<State, String>,
}

impl Store {
    /// Does `change` to every delivery that the filter chooses, and says for each what came of it.
    pub async fn change(
        &self,
        filter: Filter,
        change: Change,
        now: Timestamp,
    ) -> Result<Vec<Changed>, StoreError> {
        self.write(move |connection| {
            let rows = list(connection, &filter)?;
            rows.iter()
                .map(|row| one(connection, row.id, row.state, row.recipient.is_some(), change, now))
                .collect()
        })
        .await
    }
}

fn one(
    connection: &Connection,
    id: DeliveryId,
    state: State,
    composed: bool,
    change: Change,
    now: Timestamp,
) -> rusqlite::Result<Changed> {
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
    if change == Change::Retry && newer_went_out(connection, id)? {
        return Ok(Changed { id, result: Err("is older than an update that went out after it".to_owned()) });
    }
    let due = (next == State::Pending).then_some(now.as_millisecond());
    connection
        .prepare_cached("UPDATE deliveries SET state = ?, reason = ?, due = ?, changed_at = ? WHERE id = ?")?
        .execute(params![
            next.as_str(),
            format!("{} by hand", event.as_str()),
            due,
            now.as_millisecond(),
            id.0
        ])?;
    let (tenant, session): (String, i64) =
        connection.query_row("SELECT tenant, session FROM deliveries WHERE id = ?", [id.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let session = session_row(connection, session)?;
    let content = json!({ "from": state.as_str(), "to": next.as_str() });
    append(
        connection,
        &tenant,
        Some(&session),
        &Entry { event, at: now, session: Some(session.name), delivery: Some(id), content },
    )?;
    Ok(Changed { id, result: Ok(next) })
}

/// Whether a later delivery of the same session may have arrived: sending this one now would bring old news.
fn newer_went_out(connection: &Connection, id: DeliveryId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM deliveries d JOIN deliveries later \
             ON later.session = d.session AND later.id > d.id \
             WHERE d.id = ? AND later.state IN ('leased', 'sending', 'accepted', 'uncertain'))",
        )?
        .query_row([id.0], |row| row.get(0))
}
