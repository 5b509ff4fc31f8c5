//! Sending what is due, over a few connections that are kept and reused.
//!
//! One tenant has one dispatcher, so a slow relay holds up nobody else's mail. Its lanes share one queue of
//! leases; each lane has at most one connection and one message on the wire. The end of one attempt and the
//! beginning of the next are committed together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::{debug, error, info, warn};

use super::intake::chain;
use crate::clock::Clock;
use crate::config::tenant::Tenant;
use crate::deliver::connect::connect;
use crate::deliver::smtp::{Connection, Envelope, Sent};
use crate::outbox::{Outcome, Report};
use crate::store::{Lease, Store, StoreError, Work};

/// How often the store is asked for work that another process put there.
const POLL: Duration = Duration::from_secs(1);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(10);

/// Sends one tenant's deliveries.
#[derive(Clone)]
pub struct Dispatcher {
    /// Whose.
    pub tenant: Arc<Tenant>,
    /// From where.
    pub store: Store,
    /// Told when something was put into the store.
    pub wake: Arc<Notify>,
    /// The time.
    pub clock: Clock,
    /// TLS towards the relay.
    pub tls: TlsConnector,
    /// Turns true when no new attempt may begin.
    pub stop: watch::Receiver<bool>,
}

/// The leases that no lane has taken yet: a few, so that they do not grow old here.
struct Queue {
    leases: Mutex<VecDeque<Lease>>,
    /// One permit for each lease that waits; closed when no more will come.
    ready: Semaphore,
    /// One permit for each lease that may still be put in.
    room: Semaphore,
}

impl Queue {
    fn new(room: usize) -> Self {
        Self { leases: Mutex::default(), ready: Semaphore::new(0), room: Semaphore::new(room) }
    }

    /// Waits for room and says for how many; whoever asks then puts in that many, or gives the room back.
    async fn room(&self) -> u32 {
        if let Ok(permit) = self.room.acquire().await {
            permit.forget();
        }
        1 + u32::try_from(self.room.forget_permits(usize::MAX)).unwrap_or(0)
    }

    fn put(&self, leases: Vec<Lease>, room: u32) {
        let count = leases.len();
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).extend(leases);
        self.ready.add_permits(count);
        self.room.add_permits((room as usize).saturating_sub(count));
    }

    fn pop(&self) -> Option<Lease> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// A lease, if one waits.
    fn take_ready(&self) -> Option<Lease> {
        self.ready.try_acquire().ok()?.forget();
        self.room.add_permits(1);
        self.pop()
    }

    /// A lease, once there is one; none when no more will come.
    async fn take(&self) -> Option<Lease> {
        self.ready.acquire().await.ok()?.forget();
        self.room.add_permits(1);
        self.pop()
    }

    /// Ends the queue and gives what nobody took.
    fn close(&self) -> Vec<Lease> {
        self.ready.close();
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// An attempt that has ended and is not recorded yet.
struct Ended {
    work: Work,
    report: Report,
}

impl Dispatcher {
    /// Sends until told to stop. When this returns, no attempt is under way and no lease is held.
    pub async fn run(self) -> Result<(), StoreError> {
        let lanes = self.tenant.relay.connections;
        let queue = Arc::new(Queue::new(lanes as usize * 2));
        let mut running = JoinSet::new();
        for _ in 0..lanes {
            let (dispatcher, queue) = (self.clone(), Arc::clone(&queue));
            running.spawn(async move { dispatcher.lane(&queue).await });
        }
        let mut result = tokio::select! {
            claiming = self.claim(&queue) => claiming,
            // A lane ends by itself only when the store fails.
            Some(ended) = running.join_next() => ended.unwrap_or(Err(StoreError::Closed)),
        };
        let unused = queue.close();
        while let Some(ended) = running.join_next().await {
            result = result.and(ended.unwrap_or(Err(StoreError::Closed)));
        }
        self.store.release(unused, self.clock.now()).await?;
        result
    }

    /// Leases what is due and hands it to the lanes.
    async fn claim(&self, queue: &Queue) -> Result<(), StoreError> {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            let room = tokio::select! {
                room = queue.room() => room,
                _ = stop.changed() => continue,
            };
            // Made before asking, so that what arrives after the answer still wakes.
            let woken = self.wake.notified();
            let claimed = self.store.claim(self.tenant.name.clone(), room, self.clock.now()).await?;
            let nothing = claimed.is_empty();
            queue.put(claimed, room);
            if nothing {
                let wait = self.until_due().await?;
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(wait) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        Ok(())
    }

    async fn until_due(&self) -> Result<Duration, StoreError> {
        let due = self.store.next_due(self.tenant.name.clone()).await?;
        let wait = due.map(|due: Timestamp| due.duration_since(self.clock.now()));
        Ok(wait.map_or(POLL, |wait| Duration::try_from(wait).unwrap_or_default()).min(POLL))
    }

    async fn lane(&self, queue: &Queue) -> Result<(), StoreError> {
        let mut connection = None;
        let mut ended = None;
        loop {
            let lease = match queue.take_ready() {
                Some(lease) => lease,
                None => {
                    self.finish(ended.take()).await?;
                    match self.wait(queue, &mut connection).await {
                        Some(lease) => lease,
                        None => break,
                    }
                }
            };
            if *self.stop.borrow() {
                self.store.release(vec![lease], self.clock.now()).await?;
                break;
            }
            let (begun, finished) =
                tokio::join!(self.store.begin_attempt(lease, self.clock.now()), self.finish(ended.take()));
            finished?;
            if let Some(work) = begun? {
                let (report, kept) = self.attempt(&work, connection.take()).await;
                connection = kept;
                ended = Some(Ended { work, report });
            }
        }
        self.finish(ended).await?;
        if let Some(connection) = connection {
            connection.quit().await;
        }
        Ok(())
    }

    /// The next lease, once there is one; a connection that is not needed for a while is closed meanwhile.
    async fn wait(&self, queue: &Queue, connection: &mut Option<Box<Connection>>) -> Option<Lease> {
        if connection.is_none() {
            return queue.take().await;
        }
        if let Ok(lease) = timeout(IDLE, queue.take()).await {
            return lease;
        }
        if let Some(connection) = connection.take() {
            connection.quit().await;
        }
        queue.take().await
    }

    /// Hands one message over. Nothing of the store is held meanwhile.
    async fn attempt(&self, work: &Work, kept: Option<Box<Connection>>) -> (Report, Option<Box<Connection>>) {
        let envelope = Envelope { from: &work.envelope_from, recipient: &work.recipient, wire: &work.wire };
        if let Some(connection) = kept
            && let Sent::Ended(report, connection) = connection.send(envelope).await
        {
            return (report, connection);
        }
        let relay = &self.tenant.relay;
        match connect(relay, &self.tls).await {
            Ok(connection) => match connection.send(envelope).await {
                Sent::Ended(report, connection) => (report, connection),
                Sent::Stale(report) => (report, None),
            },
            Err(unusable) => (unusable.report(relay), None),
        }
    }

    async fn finish(&self, ended: Option<Ended>) -> Result<(), StoreError> {
        let Some(Ended { work, report }) = ended else { return Ok(()) };
        let (tenant, delivery, outcome) = (&self.tenant.name, work.lease.delivery, report.outcome);
        match outcome {
            Outcome::Accepted => info!(tenant, %delivery, attempt = work.attempt, "the relay accepted"),
            Outcome::Deferred => {
                warn!(tenant, %delivery, attempt = work.attempt, stage = report.stage, code = report.code, "deferred");
            }
            Outcome::Rejected | Outcome::Uncertain => {
                warn!(tenant, %delivery, attempt = work.attempt, stage = report.stage, code = report.code, "{}", outcome.as_str());
            }
        }
        // The server's words may quote addresses, so they are for the log of the store and for debugging.
        debug!(tenant, %delivery, answer = report.text, "the relay's answer");
        let now = self.clock.now();
        let next = self.store.finish_attempt(work.lease, work.attempt, report, self.tenant.retry, now).await;
        match next {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                error!(tenant, %delivery, "the lease was no longer good; the outcome is not recorded");
                Ok(())
            }
            Err(fault) => {
                error!(tenant, %delivery, cause = chain(&fault), "the outcome could not be recorded; after a restart it is uncertain");
                Err(fault)
            }
        }
    }
}
