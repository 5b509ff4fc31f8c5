//! Taking deliveries to work on, and recording what came of it.
//!
//! An attempt is recorded before its first byte goes out and its outcome after its last came in, each in a
//! transaction of its own. Who finishes must hold the lease that the attempt began with; a lease is lost when its
//! holder is not heard of for [`LEASE`].

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::engine::{Foresight, Result, Tx, args};
use super::{Scope, Store, StoreError, UNSETTLED, append, moment, session};
use super::{fall_back, operate, verdict};
use crate::compose::join_attachment;
use crate::config::rate::Budget;
use crate::config::tenant::{Channel, Retry};
use crate::crash::{Step, reached};
use crate::ids::DeliveryId;
use crate::log::{Entry, Event};
use crate::outbox::{Next, Outcome, Report, next};

/// How long an instance may be silent before others take over what it holds.
pub(super) const LEASE: SignedDuration = SignedDuration::from_secs(30);

/// When to ask again whether a tenant is still paused.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(1);

/// One process that delivers from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance(pub i64);

/// The right to work on one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Whose delivery.
    pub tenant: String,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Which lease of it this is: the fencing token.
    pub number: i64,
}

/// What a claim gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The leases.
    pub leases: Vec<Lease>,
    /// When to ask again, where a budget has no room or the tenant is paused.
    pub not_before: Option<Timestamp>,
}

/// One attempt that has begun.
#[derive(Debug, Clone)]
pub struct Work {
    /// The lease it was begun with.
    pub lease: Lease,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The Message-ID without brackets, the external id, or the id of what a webhook is told.
    pub message_id: String,
    /// The name of the envelope: the token of its sender.
    pub envelope_id: String,
    /// The envelope's sender.
    pub envelope_from: String,
    /// The envelope's recipient.
    pub recipient: String,
    /// The message, or the octets of the note.
    pub wire: Vec<u8>,
    /// The session file beside a note; none for a mail, which holds it.
    pub file: Option<Vec<u8>>,
}

impl Store {
    /// Makes this process known as one that delivers.
    pub async fn join(&self, now: Timestamp) -> std::result::Result<Instance, StoreError> {
        let sql = "INSERT INTO instances (id, seen_at) VALUES ($1, $2)";
        self.write(Scope::Nobody, move |tx| tx.insert(sql, args![now]).map(Instance)).await
    }

    /// Says that the instance is alive. False when it was taken for dead: it must not go on.
    pub async fn heartbeat(
        &self,
        instance: Instance,
        now: Timestamp,
    ) -> std::result::Result<bool, StoreError> {
        self.write(Scope::Nobody, move |tx| {
            tx.execute("UPDATE instances SET seen_at = $1 WHERE id = $2", args![now, instance.0])?;
            let silent = now.saturating_sub(LEASE).unwrap_or(now);
            tx.execute("DELETE FROM instances WHERE id <> $1 AND seen_at < $2", args![instance.0, silent])?;
            tx.any("SELECT id FROM instances WHERE id = $1", args![instance.0])
        })
        .await
    }

    /// Ends an instance that holds nothing any more.
    pub async fn leave(&self, instance: Instance) -> std::result::Result<(), StoreError> {
        let sql = "DELETE FROM instances WHERE id = $1";
        self.write(Scope::Nobody, move |tx| tx.execute(sql, args![instance.0])).await
    }

    /// Leases up to `most` deliveries of the tenant's on this channel that are due, the longest due first; fewer where a budget has
    /// less room, and none while the tenant is paused.
    pub async fn claim(
        &self,
        tenant: String,
        channel: Channel,
        instance: Instance,
        budgets: Vec<Budget>,
        most: u32,
        now: Timestamp,
    ) -> std::result::Result<Claimed, StoreError> {
        let scope = Scope::Tenant(tenant.clone());
        let claim = move |tx: &Tx<'_>| {
            if operate::is_paused(tx, &tenant)? {
                let soon = now.saturating_add(LOOK_AGAIN).unwrap_or(now);
                return Ok(Claimed { leases: Vec::new(), not_before: Some(soon) });
            }
            let (most, not_before) = room(tx, &budgets, most, now)?;
            let due = "SELECT id, lease + 1, target FROM deliveries WHERE tenant = $1 AND channel = $2 AND due <= $3 \
                       ORDER BY due LIMIT $4";
            let due = tx.query(due, args![&tenant, channel.as_str(), now, most], |row| {
                let (delivery, number) = (DeliveryId(row.get(0)?), row.get(1)?);
                Ok((Lease { tenant: tenant.clone(), delivery, number }, row.get::<Option<String>>(2)?))
            })?;
            let leases = hold_stopped(tx, &tenant, due, now)?;
            let take =
                "UPDATE deliveries SET state = 'leased', due = NULL, lease = $1, owner = $2 WHERE id = $3";
            for lease in &leases {
                tx.execute(take, args![lease.number, instance.0, lease.delivery.0])?;
                reached(Step::ClaimWritten);
            }
            for budget in budgets.iter().filter(|_| !leases.is_empty()) {
                let spend = "UPDATE budgets SET used = used + $1 WHERE name = $2 AND span = $3";
                tx.execute(spend, args![leases.len() as u64, &budget.name, budget.span.as_secs()])?;
            }
            Ok(Claimed { leases, not_before })
        };
        let claimed = self.write_foreseen(scope, Foresight::default(), claim).await?;
        if !claimed.leases.is_empty() {
            reached(Step::Claimed);
        }
        Ok(claimed)
    }

    /// When the tenant's next delivery on this channel is due; none when none waits.
    pub async fn next_due(
        &self,
        tenant: String,
        channel: Channel,
    ) -> std::result::Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT due FROM deliveries WHERE tenant = $1 AND channel = $2 AND due IS NOT NULL ORDER BY due LIMIT 1";
        let scope = Scope::Tenant(tenant.clone());
        let look = move |tx: &Tx<'_>| tx.first(sql, args![&tenant, channel.as_str()], |row| moment(row, 0));
        self.write_foreseen(scope, Foresight::default(), look).await
    }

    /// Whether nothing of the tenant's waits for a time and nothing is being worked on; with `falls_back`, also nothing
    /// is to be taken over by another channel.
    pub async fn is_idle(&self, tenant: String, falls_back: bool) -> std::result::Result<bool, StoreError> {
        let scope = Scope::Tenant(tenant.clone());
        let look = move |tx: &Tx<'_>| {
            let under_way = |state| {
                format!(
                    "SELECT id FROM deliveries WHERE tenant = $1 AND state = '{state}' AND {UNSETTLED} LIMIT 1"
                )
            };
            let waits = "SELECT id FROM deliveries WHERE tenant = $1 AND due IS NOT NULL LIMIT 1";
            let is_given_up = falls_back && !fall_back::given_up(tx, &tenant)?.is_empty();
            Ok(!is_given_up
                && !tx.any(waits, args![&tenant])?
                && !tx.any(&under_way("leased"), args![&tenant])?
                && !tx.any(&under_way("sending"), args![&tenant])?)
        };
        self.write_foreseen(scope, Foresight::default(), look).await
    }

    /// Records that an attempt begins, and gives what it needs. None when the lease is no longer good.
    pub async fn begin_attempt(
        &self,
        lease: Lease,
        now: Timestamp,
    ) -> std::result::Result<Option<Work>, StoreError> {
        let scope = Scope::Tenant(lease.tenant.clone());
        let foresight = Foresight::of(BEGINS, args![lease.delivery.0, lease.number], 0);
        let begun = self.write_foreseen(scope, foresight, move |tx| begin(tx, &lease, now)).await?;
        if begun.is_some() {
            reached(Step::Begun);
        }
        Ok(begun.map(|(work, raw, tail)| match work.file {
            Some(_) => Work { file: raw, ..work },
            None => Work { wire: join_attachment(work.wire, raw, tail), ..work },
        }))
    }

    /// Records how an attempt ended and what follows. None when the lease is no longer good: nothing changes.
    pub async fn finish_attempt(
        &self,
        lease: Lease,
        attempt: u32,
        report: Report,
        retry: Retry,
        now: Timestamp,
    ) -> std::result::Result<Option<Next>, StoreError> {
        let scope = Scope::Tenant(lease.tenant.clone());
        let foresight = Foresight::of(ENDS, args![lease.delivery.0, lease.number], 0);
        let work = move |tx: &Tx<'_>| finish(tx, &lease, attempt, &report, &retry, now);
        let next = self.write_foreseen(scope, foresight, work).await?;
        reached(Step::Finished);
        Ok(next)
    }

    /// Takes over what dead instances have left of the tenant's: leases return, attempts without an end are
    /// uncertain. On SQLite all instances but this one are dead, since it holds the tenant's delivery lock. Says how
    /// many attempts were uncertain.
    pub async fn recover(
        &self,
        tenant: String,
        instance: Instance,
        retry: Retry,
        now: Timestamp,
    ) -> std::result::Result<usize, StoreError> {
        let scope = Scope::Tenant(tenant.clone());
        self.write(scope, move |tx| recover(tx, &tenant, instance, &retry, now)).await
    }

    /// Gives unused leases back.
    pub async fn release(&self, leases: Vec<Lease>, now: Timestamp) -> std::result::Result<(), StoreError> {
        let Some(first) = leases.first() else { return Ok(()) };
        self.write(Scope::Tenant(first.tenant.clone()), move |tx| {
            let sql = "UPDATE deliveries SET state = 'pending', due = $1 WHERE id = $2 AND lease = $3 AND state = 'leased'";
            leases.iter().try_for_each(|lease| tx.execute(sql, args![now, lease.delivery.0, lease.number]))
        })
        .await
    }
}

/// Holds what goes to an address that mails came back from, and gives the leases of the rest.
fn hold_stopped(
    tx: &Tx<'_>,
    tenant: &str,
    due: Vec<(Lease, Option<String>)>,
    now: Timestamp,
) -> Result<Vec<Lease>> {
    let stopped = if due.is_empty() { Vec::new() } else { verdict::stopped(tx, tenant)? };
    let why = |target: &Option<String>| {
        let target = target.as_deref()?.to_ascii_lowercase();
        stopped.iter().find(|(address, _)| *address == target).map(|(_, reason)| reason)
    };
    let mut leases = Vec::with_capacity(due.len());
    for (lease, target) in due {
        match why(&target) {
            Some(reason) => operate::hold(
                tx,
                tenant,
                lease.delivery,
                &format!("nothing goes to the address: {reason}"),
                now,
            )?,
            None => leases.push(lease),
        }
    }
    Ok(leases)
}

/// How many of `most` the budgets have room for; with none, also when there is room again.
fn room(tx: &Tx<'_>, budgets: &[Budget], most: u32, now: Timestamp) -> Result<(u32, Option<Timestamp>)> {
    let (mut most, mut not_before) = (most, None);
    for Budget { name, span, most: limit } in budgets {
        let seconds = span.as_secs();
        let began = now.as_second().div_euclid(seconds) * seconds;
        tx.execute(
            "INSERT INTO budgets (name, span, began_at, used) VALUES ($1, $2, $3, 0) ON CONFLICT (name, span) DO UPDATE \
             SET used = CASE WHEN budgets.began_at = excluded.began_at THEN budgets.used ELSE 0 END, \
             began_at = excluded.began_at",
            args![name, seconds, began],
        )?;
        let used = "SELECT used FROM budgets WHERE name = $1 AND span = $2";
        let used: i64 = tx.first(used, args![name, seconds], |row| row.get(0))?.unwrap_or(0);
        let left = u32::try_from(i64::from(*limit) - used).unwrap_or(0);
        if left == 0 {
            let renewed = Timestamp::from_second(began + seconds).unwrap_or(now);
            not_before = not_before.max(Some(renewed));
        }
        most = most.min(left);
    }
    Ok((most, not_before))
}

/// The token in an envelope's sender: what `compose` put behind the mailbox's own name.
fn token_of(envelope_from: &str) -> &str {
    let local = envelope_from.rsplit_once('@').map_or(envelope_from, |(local, _)| local);
    local.rsplit_once('+').map_or(local, |(_, token)| token)
}

/// An attempt, the revision's bytes, and what stands behind them in the message.
type Begun = (Work, Option<Vec<u8>>, Option<Vec<u8>>);

/// What an attempt needs whose lease is good.
const BEGINS: &str = "SELECT d.attempts + 1, d.target, m.envelope_from, m.head, \
    CASE WHEN m.tail IS NOT NULL OR d.channel = 'record' THEN r.raw END, m.tail, d.channel, d.message_id \
    FROM deliveries d JOIN messages m ON m.delivery = d.id JOIN revisions r ON r.id = d.revision \
    WHERE d.id = $1 AND d.lease = $2 AND d.state = 'leased' \
    AND EXISTS (SELECT 1 FROM instances i WHERE i.id = d.owner)";
/// Whose attempt ends, where the lease is still good. What is being sent was changed last when the attempt began.
const ENDS: &str = "SELECT d.target, d.created_at, d.changed_at, s.id, s.kind, s.number, s.salt FROM deliveries d \
    JOIN sessions s ON s.id = d.session WHERE d.id = $1 AND d.lease = $2 AND d.state = 'sending'";

fn begin(tx: &Tx<'_>, lease: &Lease, now: Timestamp) -> Result<Option<Begun>> {
    let begun = tx.first(BEGINS, args![lease.delivery.0, lease.number], |row| {
        let envelope_from: String = row.get(2)?;
        let work = Work {
            lease: lease.clone(),
            attempt: row.number(0)?,
            message_id: row.get::<Option<String>>(7)?.unwrap_or_default(),
            envelope_id: token_of(&envelope_from).to_owned(),
            envelope_from,
            recipient: row.get(1)?,
            wire: row.get(3)?,
            file: (row.word::<Channel>(6)? == Channel::Record).then(Vec::new),
        };
        Ok((work, row.get(4)?, row.get(5)?))
    })?;
    let Some((work, raw, tail)) = begun else { return Ok(None) };
    tx.execute(
        "UPDATE deliveries SET state = 'sending', attempts = $1, changed_at = $2 WHERE id = $3",
        args![work.attempt, now, lease.delivery.0],
    )?;
    reached(Step::BeginWritten);
    Ok(Some((work, raw, tail)))
}

fn finish(
    tx: &Tx<'_>,
    lease: &Lease,
    attempt: u32,
    report: &Report,
    retry: &Retry,
    now: Timestamp,
) -> Result<Option<Next>> {
    let held = tx.first(ENDS, args![lease.delivery.0, lease.number], |row| {
        Ok((row.get::<String>(0)?, moment(row, 1)?, moment(row, 2)?, session(row, 3)?))
    })?;
    let Some((recipient, created, began, session)) = held else { return Ok(None) };
    let next = next(report, retry, lease.delivery, attempt, created, now);
    tx.execute(
        "UPDATE deliveries SET state = $1, reason = $2, due = $3, changed_at = $4 WHERE id = $5",
        args![next.state.as_str(), &next.reason, next.due, now, lease.delivery.0],
    )?;
    tx.execute(
        "INSERT INTO attempts (delivery, number, began_at, ended_at, outcome, relay, tls, stage, code, enhanced, answer) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        args![
            lease.delivery.0,
            attempt,
            began,
            now,
            report.outcome.as_str(),
            &report.relay,
            report.tls.as_ref(),
            &*report.stage,
            report.code,
            report.enhanced.as_ref(),
            &report.text
        ],
    )?;
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
    append(tx, &lease.tenant, Some(&session), &entry);
    reached(Step::FinishWritten);
    Ok(Some(next))
}

fn recover(tx: &Tx<'_>, tenant: &str, instance: Instance, retry: &Retry, now: Timestamp) -> Result<usize> {
    // One process at a time has a tenant's delivery lock on SQLite; elsewhere silence is the only sign of death.
    let silent =
        if tx.engine.is_shared() { now.saturating_sub(LEASE).unwrap_or(now) } else { Timestamp::MAX };
    let orphaned = format!(
        "tenant = $1 AND {UNSETTLED} AND (owner IS NULL OR owner <> $2 \
         AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = owner AND i.seen_at > $3))"
    );
    let values = args![tenant, instance.0, silent];
    let leased = format!("SELECT id FROM deliveries WHERE {orphaned} AND state = 'leased' ORDER BY id");
    for id in tx.query(&leased, values, |row| row.get::<i64>(0))? {
        tx.execute("UPDATE deliveries SET state = 'pending', due = $1 WHERE id = $2", args![now, id])?;
    }
    let begun = format!(
        "SELECT id, lease, attempts, channel FROM deliveries WHERE {orphaned} AND state = 'sending' ORDER BY id"
    );
    let begun = tx.query(&begun, values, |row| {
        let lease =
            Lease { tenant: tenant.to_owned(), delivery: DeliveryId(row.get(0)?), number: row.get(1)? };
        Ok((lease, row.number(2)?, row.word::<Channel>(3)?))
    })?;
    // The relay is not to blame: what is sent again goes at once. A CRM is looked into first, and may still be at work
    // on what it was sent. A webhook knows by the id what it was told before.
    let at_once = Retry { first: SignedDuration::ZERO, ..*retry };
    for (lease, attempt, channel) in &begun {
        let retry = if *channel == Channel::Record { retry } else { &at_once };
        let is_known = *channel == Channel::Webhook;
        let report = Report {
            outcome: if is_known { Outcome::Deferred } else { Outcome::Uncertain },
            relay: String::new(),
            tls: None,
            stage: "restart".into(),
            code: None,
            enhanced: None,
            text: "the program ended during the attempt".to_owned(),
            replies: Vec::new(),
            retry_after: None,
        };
        // An earlier program has written down that it began.
        tx.execute(
            "DELETE FROM attempts WHERE delivery = $1 AND number = $2",
            args![lease.delivery.0, *attempt],
        )?;
        finish(tx, lease, *attempt, &report, retry, now)?;
    }
    Ok(begun.len())
}
