//! The one thread that writes: it takes whatever work waits, does it in one transaction, syncs once, and answers
//! every caller. When one piece fails, nothing of the group is kept, and each piece is done again in a
//! transaction of its own, so that one that fails takes nothing else with it.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;

/// The most pieces of work in one transaction, and in the queue before callers wait.
const GROUP: usize = 256;

pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// A piece of work whose caller waits, whatever it gives.
trait Job: Send {
    /// Does the work within a transaction and says whether it went well. It may be done again after a rollback.
    fn work(&mut self, connection: &Connection) -> bool;
    /// Answers the caller with what the work gave, or with the reason why it is not kept.
    fn answer(self: Box<Self>, path: &Arc<PathBuf>, fault: Option<StoreError>);
}

struct Piece<T, F> {
    work: F,
    result: Option<rusqlite::Result<T>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Job for Piece<T, F> {
    fn work(&mut self, connection: &Connection) -> bool {
        self.result.insert((self.work)(connection)).is_ok()
    }

    fn answer(self: Box<Self>, path: &Arc<PathBuf>, fault: Option<StoreError>) {
        let result = match (self.result, fault) {
            (Some(Err(source)), _) => Err(failure(path, source)),
            (_, Some(fault)) => Err(fault),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(StoreError::Closed),
        };
        // A caller that has gone away needs no answer.
        drop(self.caller.send(result));
    }
}

impl Writer {
    pub(super) fn start(connection: Connection, path: Arc<PathBuf>) -> Self {
        let (jobs, queue) = mpsc::channel(GROUP);
        std::thread::spawn(move || serve(&connection, &path, queue));
        Self { jobs }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (caller, answered) = oneshot::channel();
        self.jobs
            .send(Box::new(Piece { work, result: None, caller }))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

fn serve(connection: &Connection, path: &Arc<PathBuf>, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut group = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        let done = transaction(connection, &mut group);
        if matches!(done, Ok(true)) || group.len() == 1 {
            answer(path, group.drain(..), done);
        } else {
            for mut job in group.drain(..) {
                let done = transaction(connection, std::slice::from_mut(&mut job));
                answer(path, [job], done);
            }
        }
    }
}

/// Does all of the work and commits it, or none; false when a piece of it failed.
fn transaction(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<bool> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let went_well = jobs.iter_mut().all(|job| job.work(connection));
    let ended = if went_well { connection.execute_batch("COMMIT") } else { Ok(()) };
    if !connection.is_autocommit() {
        // A commit that failed may leave the transaction open; whatever this answers, it is over.
        drop(connection.execute_batch("ROLLBACK"));
    }
    ended.map(|()| went_well)
}

fn answer(path: &Arc<PathBuf>, jobs: impl IntoIterator<Item = Box<dyn Job>>, done: rusqlite::Result<bool>) {
    let fault = done.err().map(|source| failure(path, source));
    for job in jobs {
        job.answer(path, fault.clone());
    }
}

fn failure(path: &Arc<PathBuf>, source: rusqlite::Error) -> StoreError {
    StoreError::Database { path: Arc::clone(path), source: Arc::new(source) }
}
