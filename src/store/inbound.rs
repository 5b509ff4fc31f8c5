//! Mails that came back, kept as they came before anything else is done about them; and who reads which mailbox, how
//! far.

use jiff::Timestamp;

use super::engine::{Result, Row, Tx, args};
use super::work::{Instance, LEASE};
use super::{Scope, Store, StoreError, moment, optional_moment};
use crate::crash::{Step, reached};
use crate::ids::{Digest, InboundId};
use crate::inbox::Position;

/// A mail that came back.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The mailbox's name.
    pub mailbox: String,
    /// The envelope's sender where it is known; empty for the null reverse-path.
    pub sender: Option<String>,
    /// The envelope's recipient where it is known.
    pub recipient: Option<String>,
    /// The octets.
    pub raw: Vec<u8>,
    /// Why it is not whole, which keeps it in quarantine; none for one that can be judged.
    pub fault: Option<String>,
    /// The present.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is stored.
    New(InboundId),
    /// It was stored before.
    Known(InboundId),
}

/// A mail that came back, as the lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundRow {
    /// Its number.
    pub id: InboundId,
    /// The mailbox's name.
    pub mailbox: String,
    /// The envelope's sender where it is known; empty for the null reverse-path.
    pub sender: Option<String>,
    /// The envelope's recipient where it is known.
    pub recipient: Option<String>,
    /// When it was stored.
    pub arrived_at: Timestamp,
    /// Why it is in quarantine; empty for one that is not.
    pub reason: String,
    /// How many octets are kept.
    pub octets: u64,
}

/// A mailbox that was read or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxRow {
    /// Its name.
    pub name: String,
    /// When everything that was there had been stored; none before the first time.
    pub read_at: Option<Timestamp>,
}

impl Store {
    /// Stores a mail, unless it is stored already: the same octets, from the same mailbox, for the same recipient.
    pub async fn take_inbound(&self, arrival: Arrival) -> std::result::Result<Taken, StoreError> {
        self.write(Scope::Nobody, move |tx| take(tx, &arrival)).await
    }

    /// Takes the right to read a mailbox; false while another instance has it and is alive. On SQLite all instances
    /// but this one are dead, since it has the mailbox's lock.
    pub async fn hold_mailbox(
        &self,
        name: String,
        instance: Instance,
        now: Timestamp,
    ) -> std::result::Result<bool, StoreError> {
        self.write(Scope::Nobody, move |tx| {
            tx.execute("INSERT INTO mailboxes (name) VALUES ($1) ON CONFLICT DO NOTHING", args![&name])?;
            let silent =
                if tx.engine.is_shared() { now.saturating_sub(LEASE).unwrap_or(now) } else { Timestamp::MAX };
            tx.execute(
                "UPDATE mailboxes SET owner = $1 WHERE name = $2 AND (owner IS NULL OR owner = $1 \
                 OR NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = owner AND i.seen_at > $3))",
                args![instance.0, &name, silent],
            )?;
            is_held(tx, &name, instance)
        })
        .await
    }

    /// Gives the right to read a mailbox back.
    pub async fn release_mailbox(
        &self,
        name: String,
        instance: Instance,
    ) -> std::result::Result<(), StoreError> {
        let sql = "UPDATE mailboxes SET owner = NULL WHERE name = $1 AND owner = $2";
        self.write(Scope::Nobody, move |tx| tx.execute(sql, args![&name, instance.0])).await
    }

    /// How far a mailbox was read; none before the first time.
    pub async fn mailbox_position(&self, name: String) -> std::result::Result<Option<Position>, StoreError> {
        let sql = "SELECT place, uid_validity, last_uid FROM mailboxes WHERE name = $1 AND place IS NOT NULL";
        self.write(Scope::Nobody, move |tx| {
            tx.first(sql, args![&name], |row| {
                Ok(Position { place: row.get(0)?, uid_validity: row.number(1)?, last_uid: row.number(2)? })
            })
        })
        .await
    }

    /// Notes how far a mailbox was read. False, and nothing is noted, when the instance does not hold it any more.
    pub async fn note_position(
        &self,
        name: String,
        instance: Instance,
        position: Position,
    ) -> std::result::Result<bool, StoreError> {
        self.write(Scope::Nobody, move |tx| {
            tx.execute(
                "UPDATE mailboxes SET place = $1, uid_validity = $2, last_uid = $3 WHERE name = $4 AND owner = $5",
                args![&position.place, position.uid_validity, position.last_uid, &name, instance.0],
            )?;
            reached(Step::PositionWritten);
            is_held(tx, &name, instance)
        })
        .await
    }

    /// Notes that everything in a mailbox was stored at this moment.
    pub async fn note_read(&self, name: String, now: Timestamp) -> std::result::Result<(), StoreError> {
        let sql = "UPDATE mailboxes SET read_at = $1 WHERE name = $2";
        self.write(Scope::Nobody, move |tx| tx.execute(sql, args![now, &name])).await
    }

    /// The first mails that nobody has judged, in the order of their arrival.
    pub async fn new_inbounds(&self, most: u32) -> std::result::Result<Vec<InboundRow>, StoreError> {
        self.write(Scope::Nobody, move |tx| list(tx, "new", most)).await
    }

    /// The mails in quarantine, oldest first.
    pub fn quarantined_inbounds(&self) -> std::result::Result<Vec<InboundRow>, StoreError> {
        self.read(|tx| list(tx, "quarantined", u32::MAX))
    }

    /// The octets of a mail that came back.
    pub fn inbound_mail(&self, id: InboundId) -> std::result::Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT raw FROM inbound_mails WHERE inbound = $1";
        self.read(|tx| tx.first(sql, args![id.0], |row| row.get(0)))
    }

    /// The mailboxes that were ever held, by name.
    pub fn mailboxes(&self) -> std::result::Result<Vec<MailboxRow>, StoreError> {
        let sql = "SELECT name, read_at FROM mailboxes ORDER BY name";
        self.read(|tx| {
            tx.query(sql, &[], |row| Ok(MailboxRow { name: row.get(0)?, read_at: optional_moment(row, 1)? }))
        })
    }
}

fn take(tx: &Tx<'_>, arrival: &Arrival) -> Result<Taken> {
    let Arrival { mailbox, sender, recipient, raw, fault, now } = arrival;
    // Of several mails without any octets, each has a fault of its own.
    let digest =
        fault.as_ref().map_or_else(|| Digest::of(raw), |fault| Digest::of_parts(&[raw, fault.as_bytes()]));
    let known = || {
        let sql =
            "SELECT id FROM inbounds WHERE mailbox = $1 AND digest = $2 AND coalesce(recipient, '') = $3";
        let to = recipient.as_deref().unwrap_or_default();
        tx.first(sql, args![mailbox, &digest, to], |row| Ok(InboundId(row.get(0)?)))
    };
    if let Some(id) = known()? {
        return Ok(Taken::Known(id));
    }
    let state = if fault.is_some() { "quarantined" } else { "new" };
    let id = tx.insert(
        "INSERT INTO inbounds (id, mailbox, digest, sender, recipient, arrived_at, state, reason) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        args![
            mailbox,
            &digest,
            sender.as_ref(),
            recipient.as_ref(),
            *now,
            state,
            fault.as_deref().unwrap_or_default()
        ],
    )?;
    // On a shared engine another instance may have been faster.
    match known()? {
        Some(first) if first.0 != id => Ok(Taken::Known(first)),
        _ => {
            tx.execute("INSERT INTO inbound_mails (inbound, raw) VALUES ($1, $2)", args![id, raw])?;
            reached(Step::InboundWritten);
            Ok(Taken::New(InboundId(id)))
        }
    }
}

fn is_held(tx: &Tx<'_>, name: &str, instance: Instance) -> Result<bool> {
    tx.any("SELECT name FROM mailboxes WHERE name = $1 AND owner = $2", args![name, instance.0])
}

fn list(tx: &Tx<'_>, state: &str, most: u32) -> Result<Vec<InboundRow>> {
    let sql = "SELECT i.id, i.mailbox, i.sender, i.recipient, i.arrived_at, i.reason, \
               CAST(length(m.raw) AS BIGINT) FROM inbounds i JOIN inbound_mails m ON m.inbound = i.id \
               WHERE i.state = $1 AND i.state <> 'judged' ORDER BY i.id LIMIT $2";
    tx.query(sql, args![state, most], inbound)
}

fn inbound(row: &Row<'_>) -> Result<InboundRow> {
    Ok(InboundRow {
        id: InboundId(row.get(0)?),
        mailbox: row.get(1)?,
        sender: row.get(2)?,
        recipient: row.get(3)?,
        arrived_at: moment(row, 4)?,
        reason: row.get(5)?,
        octets: row.number(6)?,
    })
}
