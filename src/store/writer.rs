//! The one thread that writes: it takes whatever work waits, does it in one transaction, syncs once, and answers
//! every caller. Each piece of work has its own savepoint, so that one that fails takes nothing else with it.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// The most pieces of work in one transaction, and in the queue before callers wait.
const GROUP: usize = 256;

/// Answers one caller, after the commit or with the reason why there was none.
type Answer = Box<dyn FnOnce(Option<StoreError>) + Send>;
/// Does its work, if there is a transaction to do it in.
type Job = Box<dyn FnOnce(Option<&Connection>, &Arc<PathBuf>) -> Answer + Send>;

pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    pub(super) fn start(connection: Connection, path: Arc<PathBuf>) -> Self {
        let (jobs, queue) = mpsc::channel(GROUP);
        std::thread::spawn(move || work(&connection, &path, queue));
        Self { jobs }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection, path| {
            let result = connection.map_or(Err(StoreError::Closed), |connection| {
                in_savepoint(connection, work).map_err(|source| failure(path, source))
            });
            Box::new(move |not_committed: Option<StoreError>| {
                // A caller that has gone away needs no answer.
                drop(answer.send(not_committed.map_or(result, Err)));
            })
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

fn work(connection: &Connection, path: &Arc<PathBuf>, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let within = begun.is_ok().then_some(connection);
        let answers: Vec<Answer> = group.drain(..).map(|job| job(within, path)).collect();
        let committed = begun.and_then(|()| connection.execute_batch("COMMIT"));
        let fault = committed.err().map(|source| failure(path, source));
        if fault.is_some() && !connection.is_autocommit() {
            // A commit that failed may leave the transaction open; whatever this answers, it is over.
            drop(connection.execute_batch("ROLLBACK"));
        }
        for answer in answers {
            answer(fault.clone());
        }
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    let result = work(connection);
    if result.is_err() {
        connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
    }
    connection.prepare_cached("RELEASE work")?.execute([])?;
    result
}

fn failure(path: &Arc<PathBuf>, source: rusqlite::Error) -> StoreError {
    StoreError::Database { path: Arc::clone(path), source: Arc::new(source) }
}
