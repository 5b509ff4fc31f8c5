//! The two engines under the store: SQLite in this process, PostgreSQL for several machines.
//!
//! The verbs above are written once. They see a transaction ([`Tx`]), give it SQL that both engines read, with
//! `$1`, `$2` for the values in the order of their first use, and get rows of four kinds of value.

mod added;
mod postgres;
mod sqlite;

use jiff::Timestamp;

use super::chains::Chains;
use crate::config::StorePlace;
use crate::deliver::tls::TlsError;
use crate::ids::Digest;

/// The newest schema that this program knows, on both engines.
pub(super) const KNOWN: usize = sqlite::MIGRATIONS.len();
const _: () = assert!(KNOWN == postgres::MIGRATIONS.len());

/// A connection that writes, or that reads.
pub(super) enum Engine {
    Sqlite(sqlite::Database),
    Postgres(Box<postgres::Session>),
}

/// A transaction on either engine.
pub(super) struct Tx<'e> {
    pub(super) engine: &'e Engine,
    pub(super) chains: &'e Chains,
}

/// One value of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A value that outlives its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What a piece of work asks first, and how many ids it takes: an engine behind a network is asked for that of many
/// pieces at once. Only of work whose first answer no other such work can change within the same transaction.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    pub(super) question: Option<(&'static str, Vec<Value>)>,
    pub(super) ids: usize,
}

impl Foresight {
    pub(super) fn of(sql: &'static str, args: &[Arg<'_>], ids: usize) -> Self {
        Self { question: Some((sql, args.iter().map(Value::from).collect())), ids }
    }
}

/// The values of a statement, in order.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::store::engine::Arg::from($value)),*][..] };
}
pub(super) use args;

/// One row of an answer.
pub(super) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL refused, or is not there.
    #[error("{}", said(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The system refused.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// TLS towards the server cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A row holds what this program never wrote.
    #[error("column {0} of a row cannot be read: {1}")]
    Unreadable(usize, String),
    /// The file system cannot hold a write-ahead log, or failed while it was set up.
    #[error("the database cannot use a write-ahead log here; its journal mode stays {0}")]
    NoWriteAheadLog(String),
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
}

impl Fault {
    /// Whether the disk could not read, write or sync. One that is full is none of these.
    pub(super) fn is_of_disk(&self) -> bool {
        let code = if let Self::Sqlite(error) = self { error.sqlite_error_code() } else { None };
        code == Some(rusqlite::ErrorCode::SystemIoFailure)
    }
}

/// The server's own words; the library's are only "db error".
fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |said| format!("{}: {}", said.severity(), said.message()))
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Engine {
    /// Opens the database, makes it where there is none, and brings its schema up to date; says which schema was
    /// found. One that is newer than ours is left alone.
    pub(super) fn open(place: &StorePlace) -> Result<(Self, usize)> {
        match place {
            StorePlace::File(path) => {
                let (database, found) = sqlite::Database::open(path)?;
                Ok((Self::Sqlite(database), found))
            }
            StorePlace::Server(url) => {
                let (session, found) = postgres::Session::open(url)?;
                Ok((Self::Postgres(Box::new(session)), found))
            }
        }
    }

    /// Opens a connection that cannot write, and runs `look` in one snapshot.
    pub(super) fn look<T: Send>(
        place: &StorePlace,
        look: impl FnOnce(&Tx<'_>) -> Result<T> + Send,
    ) -> Result<T> {
        match place {
            StorePlace::File(path) => {
                let engine = Self::Sqlite(sqlite::Database::open_to_read(path)?);
                look(&Tx { engine: &engine, chains: &Chains::default() })
            }
            // The client waits within a runtime of its own, which must not be entered from another.
            StorePlace::Server(url) => std::thread::scope(|scope| {
                let looking = scope.spawn(|| {
                    let engine = Self::Postgres(Box::new(postgres::Session::open_to_read(url)?));
                    look(&Tx { engine: &engine, chains: &Chains::default() })
                });
                looking
                    .join()
                    .unwrap_or_else(|_| Err(std::io::Error::other("reading ended in a fault").into()))
            }),
        }
    }

    pub(super) fn begin(&self) -> Result<()> {
        match self {
            Self::Sqlite(database) => database.control("BEGIN IMMEDIATE"),
            Self::Postgres(session) => session.begin(),
        }
    }

    /// Asks at once what the work of a transaction will ask first.
    pub(super) fn foresee(&self, work: &[&Foresight]) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(session) => session.foresee(work),
        }
    }

    pub(super) fn commit(&self) -> Result<()> {
        match self {
            Self::Sqlite(database) => database.control("COMMIT"),
            Self::Postgres(session) => session.commit(),
        }
    }

    /// Ends a transaction that went wrong, if one is open.
    pub(super) fn roll_back(&self) {
        match self {
            Self::Sqlite(database) => database.roll_back(),
            Self::Postgres(session) => session.roll_back(),
        }
    }

    /// Whether it is PostgreSQL: several processes may write, each in its turn.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

impl Tx<'_> {
    /// Changes rows. On PostgreSQL the statement may go out later, together with the next question or the commit;
    /// its failure is then told there.
    pub(super) fn execute(&self, sql: &str, args: &[Arg<'_>]) -> Result<()> {
        match self.engine {
            Engine::Sqlite(database) => database.execute(sql, args),
            Engine::Postgres(session) => session.execute(sql, args),
        }
    }

    /// Inserts one row and says its id. The statement's `$1` is the id; `args` are the values from `$2` on.
    pub(super) fn insert(&self, sql: &str, args: &[Arg<'_>]) -> Result<i64> {
        match self.engine {
            Engine::Sqlite(database) => database.insert(sql, args),
            Engine::Postgres(session) => session.insert(sql, args),
        }
    }

    /// Asks for rows.
    pub(super) fn query<T>(
        &self,
        sql: &str,
        args: &[Arg<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        match self.engine {
            Engine::Sqlite(database) => database.query(sql, args, |row| read(&Row::Sqlite(row))),
            Engine::Postgres(session) => {
                session.query(sql, args)?.iter().map(|row| read(&Row::Postgres(row))).collect()
            }
        }
    }

    /// Asks for the first row, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        args: &[Arg<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.query(sql, args, read)?.into_iter().next())
    }

    /// Asks whether there is any row.
    pub(super) fn any(&self, sql: &str, args: &[Arg<'_>]) -> Result<bool> {
        Ok(self.first(sql, args, |_| Ok(()))?.is_some())
    }
}

/// The places of so many rows of so many values: `($1, $2), ($3, $4)`.
fn places(rows: usize, values: usize) -> String {
    let mut places = String::new();
    for at in 0..rows * values {
        places.push_str(match (at, at % values) {
            (0, _) => "($",
            (_, 0) => "), ($",
            _ => ", $",
        });
        places.push_str(&(at + 1).to_string());
    }
    places + ")"
}

/// What a column can be read as, on both engines.
pub(super) trait Column:
    rusqlite::types::FromSql + for<'p> tokio_postgres::types::FromSql<'p>
{
}
impl<T: rusqlite::types::FromSql + for<'p> tokio_postgres::types::FromSql<'p>> Column for T {}

impl Row<'_> {
    pub(super) fn get<T: Column>(&self, at: usize) -> Result<T> {
        match self {
            Self::Sqlite(row) => Ok(row.get(at)?),
            Self::Postgres(row) => Ok(row.try_get(at)?),
        }
    }

    /// An integer of a smaller type.
    pub(super) fn number<T: TryFrom<i64>>(&self, at: usize) -> Result<T> {
        let number: i64 = self.get(at)?;
        T::try_from(number).map_err(|_| Fault::Unreadable(at, format!("{number} is out of range")))
    }

    /// A text that is one of a closed list, or has a form.
    pub(super) fn word<T: std::str::FromStr<Err: std::fmt::Display>>(&self, at: usize) -> Result<T> {
        let text: String = self.get(at)?;
        text.parse().map_err(|error: T::Err| Fault::Unreadable(at, error.to_string()))
    }

    pub(super) fn digest(&self, at: usize) -> Result<Digest> {
        let bytes: Vec<u8> = self.get(at)?;
        let length = bytes.len();
        bytes
            .try_into()
            .map(Digest)
            .map_err(|_| Fault::Unreadable(at, format!("{length} octets are no digest")))
    }
}

impl From<&Arg<'_>> for Value {
    fn from(arg: &Arg<'_>) -> Self {
        match arg {
            Arg::Null => Self::Null,
            Arg::Integer(number) => Self::Integer(*number),
            // PostgreSQL's texts cannot hold NUL.
            Arg::Text(text) => Self::Text(text.replace('\0', "\u{fffd}")),
            Arg::Bytes(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl<'a, T> From<Option<T>> for Arg<'a>
where
    Arg<'a>: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

impl From<i64> for Arg<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u16> for Arg<'_> {
    fn from(number: u16) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u32> for Arg<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u64> for Arg<'_> {
    fn from(number: u64) -> Self {
        // Ids of the platform are far below.
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for Arg<'_> {
    fn from(moment: Timestamp) -> Self {
        Self::Integer(moment.as_millisecond())
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Arg<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Arg<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Digest> for Arg<'a> {
    fn from(digest: &'a Digest) -> Self {
        Self::Bytes(&digest.0)
    }
}
