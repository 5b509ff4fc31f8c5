//! The store: sessions, outbox and log in one database.
//!
//! Every verb is one whole transaction. All writing of a process goes through one thread (`writer`), which commits
//! many callers' work with one sync; a caller is answered after the commit. Nothing is held while a network is
//! waited for. The verbs are written once, for both engines (`engine`): SQLite, where one process at a time
//! delivers for a tenant, and PostgreSQL, which several instances share. The schema is made by numbered migrations;
//! a newer one than ours is refused.

mod accept;
mod chains;
mod engine;
mod fall_back;
mod inbound;
mod judged;
mod message;
mod notice;
mod operate;
mod query;
mod verdict;
mod work;
mod writer;

use std::fs::File;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::accept::{Acceptance, Accepted, Planned, Quarantined};
use self::chains::{Scope, append};
pub use self::engine::Fault;
use self::engine::{Engine, Foresight, KNOWN, Result, Row, Tx, args};
pub use self::fall_back::{FallBack, Fallen};
pub use self::inbound::{Arrival, InboundRow, MailboxRow, Taken};
pub use self::judged::{StoppedRow, VerdictFilter, VerdictRow};
pub use self::message::Message;
pub use self::notice::Telling;
pub use self::operate::{Change, Changed};
pub use self::query::{AttemptRow, DeliveryRow, Filter, LogRow, QuarantineRow, RevisionRow, Story};
pub use self::verdict::{Act, Deed, Judged, Matched, Unjudged};
pub use self::work::{Claimed, Instance, Lease, Work};
use self::writer::Writer;
use crate::config::StorePlace;
use crate::ids::SessionName;

/// The condition of the index of deliveries that are not over; a query that repeats it is fast at any log size.
const UNSETTLED: &str = "state <> 'accepted' AND state <> 'superseded' AND state <> 'cancelled'";

/// An open store. Clones share the same writer.
#[derive(Clone)]
pub struct Store {
    place: Arc<StorePlace>,
    writer: Arc<Writer>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.place)
    }
}

/// Why the store could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refused; nothing of the transaction is kept.
    #[error("the store {place} failed")]
    Database {
        /// Which store.
        place: Arc<StorePlace>,
        /// The database's reason.
        #[source]
        source: Arc<Fault>,
    },
    /// The schema is from a later version of this program.
    #[error("the store {place} has schema {found}, this program knows {KNOWN}; use a newer aftercall")]
    Newer {
        /// Which store.
        place: Arc<StorePlace>,
        /// Its schema.
        found: usize,
    },
    /// Another instance has taken over what this one held.
    #[error("this instance was silent for too long and others took over; it must not go on")]
    TakenForDead,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl Store {
    /// Opens the database, makes it where there is none, and brings its schema up to date.
    pub fn open(place: &StorePlace) -> std::result::Result<Self, StoreError> {
        let place = Arc::new(place.clone());
        let started = Writer::start(Arc::clone(&place));
        let (writer, found) = started.map_err(|source| failed(&place, source))?;
        if found > KNOWN {
            return Err(StoreError::Newer { place, found });
        }
        Ok(Self { place, writer: Arc::new(writer) })
    }

    /// Whether it is on a server, and several processes may write to it.
    pub fn is_shared(&self) -> bool {
        matches!(*self.place, StorePlace::Server(_))
    }

    /// Runs `work` in a transaction that is durable when this returns. When it fails, nothing of it is kept.
    async fn write<T: Send + 'static>(
        &self,
        scope: Scope,
        work: impl FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        self.writer.run(scope, None, work).await
    }

    /// The same for work that is done for each of many deliveries: what many of them ask first is asked at once.
    async fn write_foreseen<T: Send + 'static>(
        &self,
        scope: Scope,
        foresight: Foresight,
        work: impl FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        self.writer.run(scope, Some(foresight), work).await
    }

    /// Runs `look` on a connection of its own that cannot write.
    fn read<T: Send>(
        &self,
        look: impl FnOnce(&Tx<'_>) -> Result<T> + Send,
    ) -> std::result::Result<T, StoreError> {
        Engine::look(&self.place, look).map_err(|source| failed(&self.place, source))
    }

    /// The right to deliver for one tenant from this store. On SQLite one process at a time has it, and loses it
    /// with its life; none while another process has it. On PostgreSQL any number of instances have it.
    pub fn lock_delivery(&self, tenant: &str) -> std::result::Result<Option<ProcessLock>, StoreError> {
        self.lock(&format!("{tenant}.lock"))
    }

    /// The right to read one mailbox into this store, in the same way. On PostgreSQL [`Store::hold_mailbox`] decides.
    pub fn lock_mailbox(&self, name: &str) -> std::result::Result<Option<ProcessLock>, StoreError> {
        self.lock(&format!("{name}.mailbox"))
    }

    fn lock(&self, what: &str) -> std::result::Result<Option<ProcessLock>, StoreError> {
        let StorePlace::File(path) = &*self.place else { return Ok(Some(ProcessLock(None))) };
        let mut name = path.as_os_str().to_owned();
        name.push(format!("-{what}"));
        let failed = |source: std::io::Error| failed(&self.place, source.into());
        let file = File::create(&name).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(ProcessLock(Some(file)))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Secret bytes that the store made for itself once, for tenants that bring no token key of their own.
    pub async fn token_secret(&self) -> std::result::Result<Vec<u8>, StoreError> {
        self.write(Scope::Nobody, |tx| {
            let fresh = random()?;
            let keep =
                "INSERT INTO settings (name, value) VALUES ('token-secret', $1) ON CONFLICT DO NOTHING";
            tx.execute(keep, args![&fresh[..]])?;
            let kept =
                tx.first("SELECT value FROM settings WHERE name = 'token-secret'", &[], |row| row.get(0))?;
            Ok(kept.unwrap_or_default())
        })
        .await
    }
}

fn failed(place: &Arc<StorePlace>, source: Fault) -> StoreError {
    StoreError::Database { place: Arc::clone(place), source: Arc::new(source) }
}

/// Held by the process that delivers for a tenant, or reads a mailbox.
#[derive(Debug)]
pub struct ProcessLock(
    #[expect(dead_code, reason = "the lock lives as long as the file is open")] Option<File>,
);

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Fault::Random(error.to_string()))?;
    Ok(bytes)
}

/// A session's row.
struct SessionRow {
    id: i64,
    name: SessionName,
    salt: Vec<u8>,
}

/// A session's row out of `id, kind, number, salt`, which begin at a column.
fn session(row: &Row<'_>, from: usize) -> Result<SessionRow> {
    Ok(SessionRow { id: row.get(from)?, name: name(row, from + 1)?, salt: row.get(from + 3)? })
}

fn name(row: &Row<'_>, kind_at: usize) -> Result<SessionName> {
    Ok(SessionName { kind: row.word(kind_at)?, number: row.number(kind_at + 1)? })
}

fn moment(row: &Row<'_>, at: usize) -> Result<Timestamp> {
    let milliseconds = row.get(at)?;
    Timestamp::from_millisecond(milliseconds).map_err(|error| Fault::Unreadable(at, error.to_string()))
}

fn optional_moment(row: &Row<'_>, at: usize) -> Result<Option<Timestamp>> {
    let milliseconds: Option<i64> = row.get(at)?;
    milliseconds.map(|_| moment(row, at)).transpose()
}
