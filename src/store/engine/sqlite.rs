//! SQLite: one file, one writing connection a process.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, TransactionBehavior, params_from_iter};

use super::{Arg, Fault, Result};

/// The migrations in order; the schema's version is how many have run.
pub(super) const MIGRATIONS: [&str; 5] = [
    include_str!("../migrations/sqlite/0001_outbox_and_log.sql"),
    include_str!("../migrations/sqlite/0002_instances_and_chains.sql"),
    include_str!("../migrations/sqlite/0003_inbounds.sql"),
    include_str!("../migrations/sqlite/0004_channels.sql"),
    include_str!("../migrations/sqlite/0005_verdicts.sql"),
];

/// How long another process may keep the database.
const PATIENCE: Duration = Duration::from_secs(30);

/// How large the write-ahead log becomes before its pages move into the database. What is changed again and again until
/// then, the ends of tables and indexes above all, moves once.
const WAL_OCTETS: i64 = 64 * 1024 * 1024;

pub(in crate::store) struct Database(Connection);

impl Database {
    pub(super) fn open(path: &Path) -> Result<(Self, usize)> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        private(path)?;
        let mut connection = Connection::open(path)?;
        configure(&connection)?;
        let found = migrate(&mut connection)?;
        Ok((Self(connection), found))
    }

    pub(super) fn open_to_read(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch("BEGIN")?;
        Ok(Self(connection))
    }

    pub(super) fn control(&self, statement: &str) -> Result<()> {
        Ok(self.0.prepare_cached(statement)?.execute([]).map(drop)?)
    }

    pub(super) fn roll_back(&self) {
        // A commit that failed may leave the transaction open; whatever this answers, it is over.
        if !self.0.is_autocommit() {
            drop(self.control("ROLLBACK"));
        }
    }

    pub(super) fn execute(&self, sql: &str, args: &[Arg<'_>]) -> Result<()> {
        self.0.prepare_cached(sql)?.execute(params_from_iter(args))?;
        Ok(())
    }

    pub(super) fn insert(&self, sql: &str, args: &[Arg<'_>]) -> Result<i64> {
        // Without RETURNING, for which SQLite makes and frees a temporary table each time.
        let with_id = std::iter::once(&Arg::Null).chain(args);
        self.0.prepare_cached(sql)?.execute(params_from_iter(with_id))?;
        Ok(self.0.last_insert_rowid())
    }

    pub(super) fn query<T>(
        &self,
        sql: &str,
        args: &[Arg<'_>],
        mut read: impl FnMut(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.0.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(args))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Arg::Null => ValueRef::Null,
            Arg::Integer(number) => ValueRef::Integer(*number),
            Arg::Text(text) => ValueRef::Text(text.as_bytes()),
            Arg::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// The database holds sessions and a key: nobody but its owner may read it. One that exists is not opened here:
/// closing it again would drop the locks that SQLite holds on it elsewhere in this process (fcntl(2)).
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

fn configure(connection: &Connection) -> Result<()> {
    connection.busy_timeout(PATIENCE)?;
    // WAL with FULL: a commit that was answered survives power loss.
    write_ahead(connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_OCTETS / page)?;
    // Otherwise a statement is compiled anew whenever a value is bound that a partial index might ask for.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Of several processes that change a new database at once, SQLite turns all but one away and does not make them wait.
fn write_ahead(connection: &Connection) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match journal_mode(connection) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => return Err(Fault::NoWriteAheadLog(mode)),
            Err(error) if is_busy(&error) && Instant::now() < until => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

/// The mode that SQLite came to. It tells only behind this answer that the change was not kept.
fn journal_mode(connection: &Connection) -> rusqlite::Result<String> {
    let mut change = connection.prepare("PRAGMA journal_mode = WAL")?;
    let modes = change.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(modes.concat())
}

/// Brings the schema up to date and says which version the file has; a newer one is left alone.
fn migrate(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", at + 1)?;
    }
    transaction.commit()?;
    Ok(found)
}
