//! Sending what is due, over a few connections that are kept and reused.
//!
//! One tenant has one dispatcher, so a slow relay holds up nobody else's mail. Its lanes share one queue of
//! leases and one pool of connections. There are more lanes than connections, so that the next attempts are
//! recorded while messages are on the wire; the end of one attempt and the beginning of the next are committed
//! together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tracing::{debug, error, info, warn};

use super::gate::{Gate, Way};
use super::intake::chain;
use crate::clock::Clock;
use crate::config::tenant::Tenant;
use crate::deliver::connect::connect;
use crate::deliver::smtp::{Connection, Envelope, Sent};
use crate::oauth::Tokens;
use crate::outbox::{Outcome, Report};
use crate::store::{Claimed, Instance, Lease, Store, StoreError, Work};

/// How often the store is asked for work that another process put there.
const POLL: Duration = Duration::from_secs(1);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(10);
/// Attempts that are recorded at a time, for each connection: one on the wire, the rest next in line. More of them
/// share a commit, and more are uncertain after a kill.
const LANES_PER_CONNECTION: usize = 4;

/// Sends one tenant's deliveries.
#[derive(Clone)]
pub struct Dispatcher {
    /// Whose.
    pub tenant: Arc<Tenant>,
    /// From where.
    pub store: Store,
    /// Which of the processes that deliver from there this is.
    pub instance: Instance,
    /// Told when something was put into the store.
    pub wake: Arc<Notify>,
    /// The time.
    pub clock: Clock,
    /// TLS towards the relay.
    pub tls: TlsConnector,
    /// The way to the relay.
    pub gate: Arc<Gate>,
    /// What opens the relay, where it takes access tokens.
    pub tokens: Option<Tokens>,
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

/// The connections to the relay: so many at a time, kept for reuse.
struct Pool {
    permits: Semaphore,
    idle: Mutex<Vec<(Instant, Box<Connection>)>>,
}

impl Pool {
    fn new(connections: usize) -> Self {
        Self { permits: Semaphore::new(connections), idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Box<Connection>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one waits.
    fn take(&self) -> Option<Box<Connection>> {
        self.idle().pop().map(|(_, connection)| connection)
    }

    fn put(&self, connection: Option<Box<Connection>>) {
        self.idle().extend(connection.map(|connection| (Instant::now(), connection)));
    }

    /// Closes the connections that were not used for `age`.
    async fn close(&self, age: Duration) {
        let old: Vec<_> = self.idle().extract_if(.., |(since, _)| since.elapsed() >= age).collect();
        for (_, connection) in old {
            connection.quit().await;
        }
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
        let connections = self.tenant.relay.connections as usize;
        let lanes = connections * LANES_PER_CONNECTION;
        let (queue, pool) = (Arc::new(Queue::new(lanes)), Arc::new(Pool::new(connections)));
        let mut running = JoinSet::new();
        for _ in 0..lanes {
            let (dispatcher, queue, pool) = (self.clone(), Arc::clone(&queue), Arc::clone(&pool));
            running.spawn(async move { dispatcher.lane(&queue, &pool).await });
        }
        let mut result = tokio::select! {
            claiming = self.claim(&queue, &pool) => claiming,
            // A lane ends by itself only when the store fails.
            Some(ended) = running.join_next() => ended.unwrap_or(Err(StoreError::Closed)),
        };
        let unused = queue.close();
        while let Some(ended) = running.join_next().await {
            result = result.and(ended.unwrap_or(Err(StoreError::Closed)));
        }
        pool.close(Duration::ZERO).await;
        self.store.release(unused, self.clock.now()).await?;
        result
    }

    /// Leases what is due and hands it to the lanes.
    async fn claim(&self, queue: &Queue, pool: &Pool) -> Result<(), StoreError> {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            match self.gate.way() {
                Way::Open => {}
                Way::Probe => {
                    self.probe(pool).await;
                    continue;
                }
                Way::Closed(wait) => {
                    pool.close(IDLE).await;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.changed() => {}
                    }
                    continue;
                }
            }
            let room = tokio::select! {
                room = queue.room() => room,
                _ = stop.changed() => continue,
            };
            // Made before asking, so that what arrives after the answer still wakes.
            let woken = self.wake.notified();
            let (tenant, budgets) = (self.tenant.name.clone(), self.tenant.budgets.clone());
            let Claimed { leases, not_before } =
                self.store.claim(tenant, self.instance, budgets, room, self.clock.now()).await?;
            let nothing = leases.is_empty();
            queue.put(leases, room);
            if nothing {
                pool.close(IDLE).await;
                let wait = self.until(not_before).await?;
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(wait) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        Ok(())
    }

    /// Tries the relay without a message; what is good is kept.
    async fn probe(&self, pool: &Pool) {
        match connect(&self.tenant.relay, &self.tls, self.tokens.as_ref()).await {
            Ok(connection) => {
                self.gate.works();
                pool.put(Some(Box::new(connection)));
            }
            Err(unusable) => self.gate.still_fails(&unusable),
        }
    }

    /// How long nothing can be claimed: until there may be room, or until something is due.
    async fn until(&self, not_before: Option<Timestamp>) -> Result<Duration, StoreError> {
        let due = match not_before {
            Some(room) => Some(room),
            None => self.store.next_due(self.tenant.name.clone()).await?,
        };
        let wait = due.map(|due: Timestamp| due.duration_since(self.clock.now()));
        Ok(wait.map_or(POLL, |wait| Duration::try_from(wait).unwrap_or_default()).min(POLL))
    }

    async fn lane(&self, queue: &Queue, pool: &Pool) -> Result<(), StoreError> {
        let mut ended = None;
        loop {
            let lease = match queue.take_ready() {
                Some(lease) => lease,
                None => {
                    self.finish(ended.take()).await?;
                    match queue.take().await {
                        Some(lease) => lease,
                        None => return Ok(()),
                    }
                }
            };
            if *self.stop.borrow() {
                self.store.release(vec![lease], self.clock.now()).await?;
                return self.finish(ended).await;
            }
            let (begun, finished) =
                tokio::join!(self.store.begin_attempt(lease, self.clock.now()), self.finish(ended.take()));
            finished?;
            if let Some(work) = begun? {
                let report = self.attempt(&work, pool).await;
                ended = Some(Ended { work, report });
            }
        }
    }

    /// Hands one message over. Nothing of the store is held meanwhile.
    async fn attempt(&self, work: &Work, pool: &Pool) -> Report {
        let envelope = Envelope {
            id: &work.envelope_id,
            from: &work.envelope_from,
            recipient: &work.recipient,
            wire: &work.wire,
        };
        let _permits = (pool.permits.acquire().await, self.gate.connection().await);
        if *self.stop.borrow() {
            return self.not_begun();
        }
        if let Some(connection) = pool.take()
            && let Sent::Ended(report, kept) = connection.send(envelope).await
        {
            pool.put(kept);
            return report;
        }
        let relay = &self.tenant.relay;
        match connect(relay, &self.tls, self.tokens.as_ref()).await {
            Ok(connection) => {
                self.gate.works();
                match connection.send(envelope).await {
                    Sent::Ended(report, kept) => {
                        pool.put(kept);
                        report
                    }
                    Sent::Stale(report) => report,
                }
            }
            Err(unusable) => {
                self.gate.fails(&unusable);
                unusable.report(relay)
            }
        }
    }

    /// The report of an attempt that was recorded and, because it is time to stop, not made.
    fn not_begun(&self) -> Report {
        Report {
            outcome: Outcome::Deferred,
            relay: self.tenant.relay.place(),
            tls: None,
            stage: "stop",
            code: None,
            enhanced: None,
            text: "the program stopped before the attempt was made".to_owned(),
            replies: Vec::new(),
        }
    }

    async fn finish(&self, ended: Option<Ended>) -> Result<(), StoreError> {
        let Some(Ended { work, report }) = ended else { return Ok(()) };
        let (tenant, delivery, outcome) = (&self.tenant.name, work.lease.delivery.0, report.outcome);
        match outcome {
            Outcome::Accepted => info!(tenant, delivery, attempt = work.attempt, "the relay accepted"),
            Outcome::Deferred | Outcome::Rejected | Outcome::Uncertain => {
                warn!(
                    tenant,
                    delivery,
                    attempt = work.attempt,
                    stage = report.stage,
                    code = report.code,
                    "{}",
                    outcome.as_str()
                );
            }
        }
        // The server's words may quote addresses, so they are for the log of the store and for debugging.
        debug!(tenant, delivery, answer = report.text, "the relay's answer");
        let now = self.clock.now();
        let next = self.store.finish_attempt(work.lease, work.attempt, report, self.tenant.retry, now).await;
        match next {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                error!(tenant, delivery, "the lease was no longer good; the outcome is not recorded");
                Ok(())
            }
            Err(fault) => {
                error!(
                    tenant,
                    delivery,
                    cause = chain(&fault),
                    "the outcome could not be recorded; after a restart it is uncertain"
                );
                Err(fault)
            }
        }
    }
}
