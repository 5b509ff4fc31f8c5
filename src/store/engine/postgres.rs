//! PostgreSQL: one session of one thread, which waits for each answer.
//!
//! Nobody waits for a statement without an answer before the next question or the commit: a few are gathered, go out,
//! and the server works on them while the next are made here. Rows that are added go out many with a statement
//! ([`Added`]). The first questions of all work go out together. So a transaction of many costs few round trips. The
//! session has a runtime of its own: nobody else waits on its thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::future::{FutureExt, try_join_all};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, yield_now};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::added::Added;
use super::{Arg, Fault, Foresight, Result, Value};
use crate::config::secret::Secret;
use crate::deliver::tls;

/// The migrations in order, with the numbers of SQLite's.
pub(super) const MIGRATIONS: [&str; 5] = [
    include_str!("../migrations/postgres/0001_outbox_and_log.sql"),
    include_str!("../migrations/postgres/0002_instances_and_chains.sql"),
    include_str!("../migrations/postgres/0003_inbounds.sql"),
    include_str!("../migrations/postgres/0004_channels.sql"),
    include_str!("../migrations/postgres/0005_verdicts.sql"),
];

/// Held while the schema is looked at and changed, so that instances that start together do it one after another.
const MIGRATION_LOCK: i64 = 0x61_66_74_65_72;
/// Ids are taken from the sequence in such blocks. What a transaction leaves is not used: a later transaction of the
/// same tenant, here or elsewhere, must get later ids.
const IDS: i64 = 64;
/// How many statements are gathered before they go out.
const HANDFUL: usize = 16;
const NEXT_IDS: &str = "SELECT nextval('ids') FROM generate_series(CAST(1 AS BIGINT), $1)";

pub(in crate::store) struct Session {
    runtime: Runtime,
    client: Arc<Client>,
    statements: RefCell<HashMap<String, Statement>>,
    added: RefCell<Added>,
    gathered: RefCell<Vec<(Statement, Vec<Value>)>>,
    /// What went out and was not answered yet.
    sent: RefCell<Vec<JoinHandle<std::result::Result<(), tokio_postgres::Error>>>>,
    /// Answers to questions that the transaction is going to ask.
    foreseen: RefCell<Vec<Foreseen>>,
    ids: RefCell<Vec<i64>>,
}

struct Foreseen {
    sql: &'static str,
    values: Vec<Value>,
    rows: Vec<Row>,
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl Session {
    pub(super) fn open(url: &Secret) -> Result<(Self, usize)> {
        let session = Self::connect(url)?;
        let found = session.migrate()?;
        Ok((session, found))
    }

    pub(super) fn open_to_read(url: &Secret) -> Result<Self> {
        let session = Self::connect(url)?;
        session.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        Ok(session)
    }

    fn connect(url: &Secret) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut config: Config = url.expose().parse()?;
        config.application_name("aftercall");
        let tls = MakeRustlsConnect::new(tls::client_config(None)?);
        let (client, connection) = runtime.block_on(config.connect(tls))?;
        // Its end is told to whoever waits for an answer.
        runtime.spawn(async move { drop(connection.await) });
        // Messages are compressed by the server, several times as fast like this. One that is older than version 14 or
        // built without it keeps to its own way.
        drop(runtime.block_on(client.batch_execute("SET default_toast_compression = 'lz4'")));
        let (client, statements) = (Arc::new(client), RefCell::default());
        let (added, gathered, sent) = (RefCell::default(), RefCell::default(), RefCell::default());
        let (foreseen, ids) = (RefCell::default(), RefCell::default());
        Ok(Self { runtime, client, statements, added, gathered, sent, foreseen, ids })
    }

    /// Brings the schema up to date and says which version was found; a newer one is left alone.
    fn migrate(&self) -> Result<usize> {
        self.control("BEGIN")?;
        let batch = |sql: &str| self.runtime.block_on(self.client.batch_execute(sql));
        batch(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))?;
        batch("CREATE TABLE IF NOT EXISTS schema (version BIGINT NOT NULL)")?;
        let version = self.query("SELECT max(version) FROM schema", &[])?;
        let version: Option<i64> = version.first().map(|row| row.try_get(0)).transpose()?.flatten();
        let found = usize::try_from(version.unwrap_or(0)).unwrap_or(usize::MAX);
        for (at, migration) in MIGRATIONS.iter().enumerate().skip(found) {
            batch(migration)?;
            batch(&format!("INSERT INTO schema VALUES ({})", at + 1))?;
        }
        self.control("COMMIT")?;
        Ok(found)
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.runtime.block_on(self.client.prepare(sql))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Puts a statement behind those that are gathered; a row that it adds waits for others like it.
    fn gather(&self, sql: &str, values: Vec<Value>) -> Result<()> {
        let kept = self.added.borrow_mut().keep(sql, values);
        match kept {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.gather_added(sql)?;
                self.send();
                Ok(())
            }
            Err(values) => {
                self.gather_added(sql)?;
                self.put(sql, values)
            }
        }
    }

    /// Puts the rows that a statement may find behind what is gathered.
    fn gather_added(&self, before: &str) -> Result<()> {
        let added = self.added.borrow_mut().before(before);
        added.into_iter().try_for_each(|(sql, values)| self.put(&sql, values))
    }

    fn put(&self, sql: &str, values: Vec<Value>) -> Result<()> {
        let statement = self.prepared(sql)?;
        self.gathered.borrow_mut().push((statement, values));
        if self.gathered.borrow().len() >= HANDFUL {
            self.send();
        }
        Ok(())
    }

    /// Sends what is gathered; the answers come later.
    fn send(&self) {
        let (client, gathered) = (Arc::clone(&self.client), self.gathered.take());
        let mut executing = Box::pin(async move {
            let all = gathered.iter().map(|(statement, values)| client.execute_raw(statement, values));
            try_join_all(all).await.map(drop)
        });
        // Begun here, so that it stands before all that is sent later.
        let ended = executing.as_mut().now_or_never();
        let rest = async move {
            match ended {
                Some(ended) => ended,
                None => executing.await,
            }
        };
        self.sent.borrow_mut().push(self.runtime.spawn(rest));
        // The connection gets its turn to write.
        self.runtime.block_on(yield_now());
    }

    /// Sends everything, the questions last, and waits for all answers.
    fn answers(&self, questions: &[(Statement, &[Value])]) -> Result<Vec<Vec<Row>>> {
        self.gather_added("SELECT")?;
        if !self.gathered.borrow().is_empty() {
            self.send();
        }
        let sent = self.sent.take();
        self.runtime.block_on(async {
            let executing = async {
                for one in sent {
                    one.await.map_err(std::io::Error::other)??;
                }
                Ok::<_, Fault>(())
            };
            let asking = questions.iter().map(async |(statement, values)| {
                let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
                Ok(self.client.query(statement, &values).await?)
            });
            let ((), rows) = tokio::try_join!(biased; executing, try_join_all(asking))?;
            Ok(rows)
        })
    }

    fn ask(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>> {
        let statement = self.prepared(sql)?;
        Ok(self.answers(&[(statement, values)])?.pop().unwrap_or_default())
    }

    pub(super) fn control(&self, statement: &str) -> Result<()> {
        self.answers(&[])?;
        Ok(self.runtime.block_on(self.client.batch_execute(statement))?)
    }

    /// The beginning and the end go out together with what stands behind and before them.
    pub(super) fn begin(&self) -> Result<()> {
        self.ids.take();
        self.foreseen.take();
        self.execute("BEGIN", &[])
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.execute("COMMIT", &[])?;
        self.answers(&[]).map(drop)
    }

    /// Takes the ids for all of the work, and the answers to what it will ask first.
    pub(super) fn foresee(&self, work: &[&Foresight]) -> Result<()> {
        let ids = work.iter().map(|one| one.ids).sum::<usize>();
        let ids = (ids > 0).then(|| (NEXT_IDS, vec![Value::Integer(i64::try_from(ids).unwrap_or(IDS))]));
        let asked = || work.iter().filter_map(|one| one.question.as_ref()).chain(&ids);
        let questions = asked().map(|(sql, values)| Ok((self.prepared(sql)?, &values[..])));
        let mut answers = self.answers(&questions.collect::<Result<Vec<_>>>()?)?;
        if ids.is_some() {
            self.keep_ids(&answers.pop().unwrap_or_default())?;
        }
        let foreseen = asked().zip(answers);
        *self.foreseen.borrow_mut() =
            foreseen.map(|((sql, values), rows)| Foreseen { sql, values: values.clone(), rows }).collect();
        Ok(())
    }

    pub(super) fn roll_back(&self) {
        self.added.take();
        self.gathered.take();
        self.sent.take();
        self.foreseen.take();
        drop(self.runtime.block_on(self.client.batch_execute("ROLLBACK")));
    }

    pub(super) fn execute(&self, sql: &str, args: &[Arg<'_>]) -> Result<()> {
        self.gather(sql, args.iter().map(Value::from).collect())
    }

    pub(super) fn insert(&self, sql: &str, args: &[Arg<'_>]) -> Result<i64> {
        let id = self.next_id()?;
        let values = std::iter::once(Value::Integer(id)).chain(args.iter().map(Value::from));
        self.gather(sql, values.collect())?;
        Ok(id)
    }

    pub(super) fn query(&self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Row>> {
        let values: Vec<Value> = args.iter().map(Value::from).collect();
        // Who asks the same again is told what has changed since.
        let is_it = |one: &mut Foreseen| one.values == values && one.sql == sql;
        let found = self.foreseen.borrow_mut().extract_if(.., is_it).collect::<Vec<_>>().into_iter().next();
        found.map_or_else(|| self.ask(sql, &values), |one| Ok(one.rows))
    }

    fn next_id(&self) -> Result<i64> {
        if self.ids.borrow().is_empty() {
            self.keep_ids(&self.ask(NEXT_IDS, &[Value::Integer(IDS)])?)?;
        }
        let id = self.ids.borrow_mut().pop();
        id.ok_or_else(|| Fault::Unreadable(0, "the sequence gave no number".to_owned()))
    }

    /// Keeps a block of ids; the smallest is taken first.
    fn keep_ids(&self, rows: &[Row]) -> Result<()> {
        let mut ids: Vec<i64> =
            rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>()?;
        ids.sort_unstable_by(|a, b| b.cmp(a));
        *self.ids.borrow_mut() = ids;
        Ok(())
    }
}
