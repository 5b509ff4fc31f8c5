//! What is given up on one channel goes another way, once.

use jiff::Timestamp;
use serde_json::json;

use super::accept::{Placed, history, insert_delivery, planned_content};
use super::engine::{Result, Tx, args};
use super::{Planned, Scope, Store, StoreError, UNSETTLED, append, session};
use crate::config::tenant::Channel;
use crate::ids::{DeliveryId, Digest, SessionKey};
use crate::log::{Entry, Event};
use crate::plan::Past;

/// A delivery that was given up and that another channel can take over.
#[derive(Debug, Clone)]
pub struct Fallen {
    /// Whose session.
    pub key: SessionKey,
    /// The revision's bytes.
    pub raw: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The channel that takes over.
    pub to: Channel,
    /// The session's other deliveries before it, oldest first.
    pub before: Vec<Past>,
}

/// What takes a given-up delivery's place.
#[derive(Debug, Clone)]
pub struct FallBack {
    /// Whose.
    pub tenant: String,
    /// The delivery that was given up.
    pub delivery: DeliveryId,
    /// By which channel, as [`Fallen`] said.
    pub to: Channel,
    /// Why.
    pub why: String,
    /// What to send in its place.
    pub planned: Planned,
    /// The present.
    pub now: Timestamp,
}

impl Store {
    /// The tenant's deliveries that were given up and whose other channel has not taken over yet, each with the reason.
    pub async fn given_up(
        &self,
        tenant: String,
    ) -> std::result::Result<Vec<(DeliveryId, String)>, StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| given_up(tx, &tenant)).await
    }

    /// What is known of a delivery that another channel can take over; none where none can.
    pub async fn fallen(
        &self,
        tenant: String,
        delivery: DeliveryId,
    ) -> std::result::Result<Option<Fallen>, StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| fallen(tx, &tenant, delivery)).await
    }

    /// Puts what takes a delivery's place into the outbox. None when that was done before, or when a newer revision
    /// was planned meanwhile and brings the news anyhow.
    pub async fn fall_back(
        &self,
        fall_back: FallBack,
    ) -> std::result::Result<Option<DeliveryId>, StoreError> {
        let scope = Scope::Tenant(fall_back.tenant.clone());
        self.write(scope, move |tx| take_over(tx, &fall_back)).await
    }
}

pub(super) fn given_up(tx: &Tx<'_>, tenant: &str) -> Result<Vec<(DeliveryId, String)>> {
    let in_state = |state| {
        let sql = format!(
            "SELECT id, reason FROM deliveries WHERE tenant = $1 AND state = '{state}' AND {UNSETTLED} \
             AND fallback IS NOT NULL ORDER BY id"
        );
        tx.query(&sql, args![tenant], |row| Ok((DeliveryId(row.get(0)?), row.get(1)?)))
    };
    Ok([in_state("rejected")?, in_state("expired")?].concat())
}

fn fallen(tx: &Tx<'_>, tenant: &str, delivery: DeliveryId) -> Result<Option<Fallen>> {
    let sql = "SELECT s.id, s.kind, s.number, s.salt, s.instance, r.raw, r.digest, d.fallback FROM deliveries d \
               JOIN sessions s ON s.id = d.session JOIN revisions r ON r.id = d.revision \
               WHERE d.id = $1 AND d.tenant = $2 AND d.fallback IS NOT NULL";
    let found = tx.first(sql, args![delivery.0, tenant], |row| {
        let session = session(row, 0)?;
        let key = SessionKey { tenant: tenant.to_owned(), instance: row.get(4)?, name: session.name };
        let fallen =
            Fallen { key, raw: row.get(5)?, digest: row.digest(6)?, to: row.word(7)?, before: Vec::new() };
        Ok((session.id, fallen))
    })?;
    let Some((session, fallen)) = found else { return Ok(None) };
    let before = history(tx, session)?.deliveries.into_iter().filter(|past| past.id < delivery).collect();
    Ok(Some(Fallen { before, ..fallen }))
}

fn take_over(tx: &Tx<'_>, fall_back: &FallBack) -> Result<Option<DeliveryId>> {
    let FallBack { tenant, delivery, to, why, planned, now } = fall_back;
    let sql = "SELECT s.id, s.kind, s.number, s.salt, d.revision, d.ticket, d.channel, r.raw FROM deliveries d \
               JOIN sessions s ON s.id = d.session JOIN revisions r ON r.id = d.revision \
               WHERE d.id = $1 AND d.tenant = $2 AND d.fallback = $3";
    let found = tx.first(sql, args![delivery.0, tenant, to.as_str()], |row| {
        let ticket: Option<String> = row.get(5)?;
        Ok((session(row, 0)?, row.get::<i64>(4)?, ticket, row.word::<Channel>(6)?, row.get::<Vec<u8>>(7)?))
    })?;
    let Some((session, revision, ticket, from, raw)) = found else { return Ok(None) };
    tx.execute("UPDATE deliveries SET fallback = NULL WHERE id = $1", args![delivery.0])?;
    let later = "SELECT id FROM deliveries WHERE session = $1 AND id > $2 AND notice IS NULL LIMIT 1";
    let is_old = tx.any(later, args![session.id, delivery.0])?;
    let taken = if is_old {
        None
    } else {
        let placed = Placed {
            tenant,
            session: session.id,
            revision,
            ticket: ticket.as_ref(),
            channel: *to,
            fallback: None,
            instead_of: Some(*delivery),
            now: *now,
        };
        insert_delivery(tx, &placed, planned, &raw)?
    };
    let nothing = json!({ "nothing": "a newer update was planned meanwhile" });
    let content = json!({
        "from": from.as_str(),
        "to": to.as_str(),
        "why": why,
        "by": taken.map(|id| id.0),
        "plan": if is_old { nothing } else { planned_content(planned) },
    });
    let entry = Entry {
        event: Event::FellBack,
        at: *now,
        session: Some(session.name),
        delivery: Some(*delivery),
        content,
    };
    append(tx, tenant, Some(&session), &entry);
    Ok(taken)
}
