//! The one thread that writes: it takes whatever work waits, does it in one transaction, syncs once, and answers every
//! caller. In a flood it waits a moment for more, so that more shares the sync. When one piece fails, nothing of the
//! group is kept, and each piece is done again in a transaction of its own, so that one that fails takes nothing else
//! with it. When the disk fails, nothing more is written: a sync that goes well after one that did not says nothing
//! about what was written before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::chains::{Chains, Scope};
use super::engine::{Engine, Foresight, Result, Tx};
use super::{StoreError, failed};
use crate::config::StorePlace;

/// The most pieces of work in one transaction, and in the queue before callers wait.
const GROUP: usize = 256;
/// How many pieces in one transaction are a flood, behind which more is about to come.
const FLOOD: usize = 3;
/// How long it waits then for more.
const GATHERING: Duration = Duration::from_millis(1);
/// With so many it does not wait.
const ENOUGH: usize = 40;

pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// A piece of work whose caller waits, whatever it gives.
trait Job: Send {
    /// Does the work within a transaction and says whether it went well. It may be done again after a rollback.
    fn work(&mut self, tx: &Tx<'_>) -> bool;
    /// Whose rows it may change.
    fn scope(&self) -> Scope;
    /// What it asks first; none of work that may change what other work is going to be answered.
    fn foresight(&self) -> Option<&Foresight>;
    /// Answers the caller with what the work gave, or with the reason why it is not kept.
    fn answer(self: Box<Self>, place: &Arc<StorePlace>, fault: Option<StoreError>);
}

struct Piece<T, F> {
    work: F,
    scope: Scope,
    foresight: Option<Foresight>,
    result: Option<Result<T>>,
    caller: oneshot::Sender<std::result::Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&Tx<'_>) -> Result<T> + Send> Job for Piece<T, F> {
    fn work(&mut self, tx: &Tx<'_>) -> bool {
        self.result.insert((self.work)(tx)).is_ok()
    }

    fn scope(&self) -> Scope {
        self.scope.clone()
    }

    fn foresight(&self) -> Option<&Foresight> {
        self.foresight.as_ref()
    }

    fn answer(self: Box<Self>, place: &Arc<StorePlace>, fault: Option<StoreError>) {
        let result = match (self.result, fault) {
            (Some(Err(source)), _) => Err(failed(place, source)),
            (_, Some(fault)) => Err(fault),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(StoreError::Closed),
        };
        // A caller that has gone away needs no answer.
        drop(self.caller.send(result));
    }
}

impl Writer {
    /// Opens the store on the writing thread, and says which schema was found.
    pub(super) fn start(place: Arc<StorePlace>) -> Result<(Self, usize)> {
        let (jobs, queue) = mpsc::channel(GROUP);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || match Engine::open(&place) {
            Ok((engine, found)) => {
                // Whoever asked waits for this.
                drop(tell.send(Ok(found)));
                serve(&engine, &place, queue);
            }
            Err(fault) => drop(tell.send(Err(fault))),
        });
        let found = told.recv().map_err(|_| std::io::Error::other("the writing thread did not start"))??;
        Ok((Self { jobs }, found))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        scope: Scope,
        foresight: Option<Foresight>,
        work: impl FnMut(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, StoreError> {
        let (caller, answered) = oneshot::channel();
        self.jobs
            .send(Box::new(Piece { work, scope, foresight, result: None, caller }))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no state to wait for: the more comes in this time, the better"
)]
fn serve(engine: &Engine, place: &Arc<StorePlace>, mut queue: mpsc::Receiver<Box<dyn Job>>) {
    let mut group = Vec::with_capacity(GROUP);
    let (mut before, mut broken) = (0, None);
    while queue.blocking_recv_many(&mut group, GROUP) > 0 {
        if before >= FLOOD && group.len() < ENOUGH {
            std::thread::sleep(GATHERING);
            while group.len() < GROUP
                && let Ok(job) = queue.try_recv()
            {
                group.push(job);
            }
        }
        before = group.len();
        // All of them wait: those that add the most come first, so that what they add can go out together.
        group.sort_by_key(|job| job.foresight().is_none_or(|foresight| foresight.ids == 0));
        let done = unless_broken(engine, place, &mut group, &mut broken);
        if matches!(done, Ok(true)) || group.len() == 1 {
            answer(place, group.drain(..), done);
        } else {
            for mut job in group.drain(..) {
                let done = unless_broken(engine, place, std::slice::from_mut(&mut job), &mut broken);
                answer(place, [job], done);
            }
        }
    }
}

/// Does the work in a transaction, unless the disk has failed before; then that failure is the answer to everything.
fn unless_broken(
    engine: &Engine,
    place: &Arc<StorePlace>,
    jobs: &mut [Box<dyn Job>],
    broken: &mut Option<StoreError>,
) -> std::result::Result<bool, StoreError> {
    if let Some(fault) = broken {
        return Err(fault.clone());
    }
    transaction(engine, jobs).map_err(|source| {
        let is_of_disk = source.is_of_disk();
        let fault = failed(place, source);
        *broken = is_of_disk.then(|| fault.clone());
        fault
    })
}

/// Does all of the work and commits it, or none; false when a piece of it failed.
fn transaction(engine: &Engine, jobs: &mut [Box<dyn Job>]) -> Result<bool> {
    let chains = Chains::default();
    let tx = Tx { engine, chains: &chains };
    let run = |jobs: &mut [Box<dyn Job>]| {
        engine.begin()?;
        let scopes: Vec<Scope> = jobs.iter().map(|job| job.scope()).collect();
        let foresight: Option<Vec<&Foresight>> = jobs.iter().map(|job| job.foresight()).collect();
        chains.load(engine, &scopes, &foresight.unwrap_or_default())?;
        if !jobs.iter_mut().all(|job| job.work(&tx)) {
            return Ok(false);
        }
        chains.save(engine)?;
        engine.commit().map(|()| true)
    };
    let ended = run(jobs);
    if !matches!(ended, Ok(true)) {
        engine.roll_back();
    }
    ended
}

fn answer(
    place: &Arc<StorePlace>,
    jobs: impl IntoIterator<Item = Box<dyn Job>>,
    done: std::result::Result<bool, StoreError>,
) {
    let fault = done.err();
    for job in jobs {
        job.answer(place, fault.clone());
    }
}
