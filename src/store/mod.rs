//! The store: sessions, outbox and log in one SQLite database.
//!
//! Every verb is one whole transaction. All writing goes through one thread (`writer`), which commits many
//! callers' work with one sync; a caller is answered after the commit. Nothing is held while a network is
//! waited for. The schema is made by numbered migrations; a newer one than ours is refused.

mod accept;
mod operate;
mod query;
mod work;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

pub use self::accept::{Acceptance, Accepted, Planned, Quarantined};
pub use self::operate::{Change, Changed};
pub use self::query::{AttemptRow, DeliveryRow, Filter, LogRow, QuarantineRow, RevisionRow, Story};
pub use self::work::{Lease, Work};
use self::writer::Writer;
use crate::ids::{Digest, SessionName};
use crate::log::{Entry, FIRST, seal};

/// The migrations in order; the schema's version is how many have run.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0001_outbox_and_log.sql")];

/// The condition of the index of deliveries that are not over; a query that repeats it is fast at any log size.
const UNSETTLED: &str = "state <> 'accepted' AND state <> 'superseded' AND state <> 'cancelled'";

/// An open store. Clones share the same writer.
#[derive(Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    writer: Arc<Writer>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.path.display())
    }
}

/// Why the store could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database refused; nothing of the transaction is kept.
    #[error("the store {path} failed")]
    Database {
        /// The file.
        path: Arc<PathBuf>,
        /// The database's reason.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// The file or its folder cannot be used.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: Arc<PathBuf>,
        /// The system's reason.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The schema is from a later version of this program.
    #[error("the store {path} has schema {found}, this program knows {known}; use a newer aftercall")]
    Newer {
        /// The file.
        path: Arc<PathBuf>,
        /// The file's schema.
        found: usize,
        /// The newest schema this program knows.
        known: usize,
    },
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
}

impl Store {
    /// Opens the database, makes it where there is none, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = Arc::new(path.to_owned());
        let opening = |source| StoreError::Open { path: Arc::clone(&path), source: Arc::new(source) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(opening)?;
        }
        private(&path).map_err(opening)?;
        let database = |source| StoreError::Database { path: Arc::clone(&path), source: Arc::new(source) };
        let mut connection = Connection::open(&*path).map_err(database)?;
        configure(&connection).map_err(database)?;
        let found = migrate(&mut connection).map_err(database)?;
        if found > MIGRATIONS.len() {
            return Err(StoreError::Newer { path, found, known: MIGRATIONS.len() });
        }
        let writer = Arc::new(Writer::start(connection, Arc::clone(&path)));
        Ok(Self { path, writer })
    }

    /// Runs `work` in a transaction that is durable when this returns. When it fails, nothing of it is kept.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.run(work).await
    }

    /// Runs `look` on a connection of its own that cannot write.
    fn read<T>(&self, look: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let result = Connection::open_with_flags(&*self.path, flags).and_then(|connection| {
            connection.busy_timeout(Duration::from_secs(10))?;
            look(&connection)
        });
        result
            .map_err(|source| StoreError::Database { path: Arc::clone(&self.path), source: Arc::new(source) })
    }

    /// The right to deliver for one tenant from this store: one process at a time has it, and loses it with its
    /// life. None while another process has it.
    pub fn lock_delivery(&self, tenant: &str) -> Result<Option<DeliveryLock>, StoreError> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!("-{tenant}.lock"));
        let opening = |source| StoreError::Open { path: Arc::clone(&self.path), source: Arc::new(source) };
        let file = File::create(&name).map_err(opening)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(DeliveryLock(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(opening(error)),
        }
    }

    /// Secret bytes that the store made for itself once, for tenants that bring no token key of their own.
    pub async fn token_secret(&self) -> Result<Vec<u8>, StoreError> {
        self.write(|connection| {
            let fresh = random()?;
            connection.execute("INSERT OR IGNORE INTO settings VALUES ('token-secret', ?)", [&fresh[..]])?;
            connection
                .query_row("SELECT value FROM settings WHERE name = 'token-secret'", [], |row| row.get(0))
        })
        .await
    }
}

/// Held by the process that delivers.
#[derive(Debug)]
pub struct DeliveryLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

/// The database holds sessions and a key: nobody but its owner may read it. One that exists is not opened here:
/// closing it again would drop the locks that SQLite holds on it elsewhere in this process (fcntl(2)).
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(30))?;
    // Messages are some 20 kB: fewer, larger pages.
    connection.pragma_update(None, "page_size", 16384)?;
    // WAL with FULL: a commit that was answered survives power loss.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Brings the schema up to date and says which version the file has; a newer one is left alone.
fn migrate(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", at + 1)?;
    }
    transaction.commit()?;
    Ok(found)
}

fn random() -> rusqlite::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    Ok(bytes)
}

/// A session's row.
struct SessionRow {
    id: i64,
    name: SessionName,
    salt: Vec<u8>,
}

/// Appends one entry to the tenant's chain.
fn append(
    connection: &Connection,
    tenant: &str,
    session: Option<&SessionRow>,
    entry: &Entry,
) -> rusqlite::Result<()> {
    let mut last = connection
        .prepare_cached("SELECT number, hash FROM log WHERE tenant = ? ORDER BY number DESC LIMIT 1")?;
    let last = last.query_row([tenant], |row| Ok((row.get(0)?, digest(row, 1)?))).optional()?;
    let (number, previous): (i64, Digest) = last.unwrap_or((0, FIRST));
    let salt = session.map_or(&[][..], |session| &session.salt);
    let sealed = seal(entry, tenant, number + 1, &previous, salt);
    connection
        .prepare_cached("INSERT INTO log (tenant, number, session, delivery, record, content, hash) VALUES (?, ?, ?, ?, ?, ?, ?)")?
        .execute(params![
            tenant,
            number + 1,
            session.map(|session| session.id),
            entry.delivery.map(|delivery| delivery.0),
            sealed.record,
            sealed.content,
            sealed.hash.0,
        ])?;
    Ok(())
}

/// The session of a delivery or revision, by its row's id.
fn session_row(connection: &Connection, id: i64) -> rusqlite::Result<SessionRow> {
    connection
        .prepare_cached("SELECT id, kind, number, salt FROM sessions WHERE id = ?")?
        .query_row([id], |row| Ok(SessionRow { id: row.get(0)?, name: name(row, 1)?, salt: row.get(3)? }))
}

fn name(row: &Row<'_>, kind_at: usize) -> rusqlite::Result<SessionName> {
    Ok(SessionName { kind: word(row, kind_at)?, number: row.get(kind_at + 1)? })
}

/// A column whose text is one of a closed list.
fn word<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    at: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(at)?;
    text.parse()
        .map_err(|error: T::Err| rusqlite::Error::FromSqlConversionFailure(at, Type::Text, error.into()))
}

fn digest(row: &Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    row.get(at).map(Digest)
}

fn moment(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    let milliseconds = row.get(at)?;
    Timestamp::from_millisecond(milliseconds)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, Type::Integer, error.into()))
}

fn optional_moment(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Timestamp>> {
    let milliseconds: Option<i64> = row.get(at)?;
    milliseconds.map(|_| moment(row, at)).transpose()
}
