//! Sending what is due, over a few connections that are kept and reused.
//!
//! A tenant has a dispatcher for each channel, so a slow relay holds up nobody else's mail, and no note for a CRM. Its
//! lanes share one queue of leases and one [`Carrier`]. There are more lanes than connections, so that the next attempts are
//! recorded while messages are on the wire; the end of one attempt and the beginning of the next are committed
//! together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use super::carrier::{Carrier, CarrierError};
use super::desk::Desk;
use super::fall_back::fall_back;
use super::gate::{Gate, Gates, Way};
use super::intake::chain;
use crate::config::tenant::{Channel, Tenant};
use crate::outbox::{Next, Outcome, Report};
use crate::store::{Claimed, Instance, Lease, Store, StoreError, Work};

/// How often the store is asked for work that another process put there.
const POLL: Duration = Duration::from_secs(1);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(10);

/// Tells the senders of a tenant that something was put into the store.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<[Notify; Channel::ALL.len()]>);

impl Wake {
    /// Tells all of them.
    pub fn tell(&self) {
        self.0.iter().for_each(Notify::notify_one);
    }

    fn of(&self, channel: Channel) -> &Notify {
        &self.0[channel as usize]
    }
}

/// Sends one tenant's deliveries by one channel.
#[derive(Clone)]
pub struct Dispatcher {
    /// Whose.
    pub desk: Desk,
    /// From where.
    pub store: Store,
    /// Which of the processes that deliver from there this is.
    pub instance: Instance,
    /// Told when something was put into the store.
    pub wake: Wake,
    /// What takes the messages there.
    pub carrier: Arc<Carrier>,
    /// The way there.
    pub gate: Arc<Gate>,
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
    /// One for each channel that the tenant has.
    pub fn of_tenant(
        desk: &Desk,
        store: &Store,
        instance: Instance,
        gates: &Gates,
        wake: &Wake,
        stop: &watch::Receiver<bool>,
    ) -> Result<Vec<Self>, CarrierError> {
        let dispatcher = |carrier: Carrier| Self {
            gate: Arc::clone(&gates[&carrier.place(&desk.tenant)]),
            desk: desk.clone(),
            store: store.clone(),
            instance,
            wake: wake.clone(),
            carrier: Arc::new(carrier),
            stop: stop.clone(),
        };
        Ok(Carrier::all(&desk.tenant, &desk.clock)?.into_iter().map(dispatcher).collect())
    }

    fn tenant(&self) -> &Tenant {
        &self.desk.tenant
    }

    fn now(&self) -> Timestamp {
        self.desk.clock.now()
    }

    /// Sends until told to stop. When this returns, no attempt is under way and no lease is held.
    pub async fn run(self) -> Result<(), StoreError> {
        self.fall_backs().await?;
        let lanes = self.carrier.lanes(self.tenant());
        let queue = Arc::new(Queue::new(lanes));
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
        self.carrier.close(Duration::ZERO).await;
        self.store.release(unused, self.now()).await?;
        result
    }

    /// Leases what is due and hands it to the lanes.
    async fn claim(&self, queue: &Queue) -> Result<(), StoreError> {
        let mut stop = self.stop.clone();
        while !*stop.borrow() {
            match self.gate.way() {
                Way::Open => {}
                Way::Probe => {
                    self.carrier.probe(self.tenant(), &self.gate).await;
                    continue;
                }
                Way::Closed(wait) => {
                    self.carrier.close(IDLE).await;
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
            let woken = self.wake.of(self.carrier.channel()).notified();
            let (tenant, channel) = (self.tenant().name.clone(), self.carrier.channel());
            let budgets = self.carrier.budgets(self.tenant());
            let Claimed { leases, not_before } =
                self.store.claim(tenant, channel, self.instance, budgets, room, self.now()).await?;
            let nothing = leases.is_empty();
            queue.put(leases, room);
            if nothing {
                self.fall_backs().await?;
                self.carrier.close(IDLE).await;
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

    /// Lets the other channel take over what was given up and is not taken over yet: by a process that died.
    async fn fall_backs(&self) -> Result<(), StoreError> {
        if self.tenant().fallback.is_none() || self.carrier.channel() != self.tenant().channel {
            return Ok(());
        }
        for (delivery, why) in self.store.given_up(self.tenant().name.clone()).await? {
            fall_back(&self.desk, &self.store, delivery, why).await?;
            self.wake.tell();
        }
        Ok(())
    }

    /// How long nothing can be claimed: until there may be room, or until something is due.
    async fn until(&self, not_before: Option<Timestamp>) -> Result<Duration, StoreError> {
        let due = match not_before {
            Some(room) => Some(room),
            None => self.store.next_due(self.tenant().name.clone(), self.carrier.channel()).await?,
        };
        let wait = due.map(|due: Timestamp| due.duration_since(self.now()));
        Ok(wait.map_or(POLL, |wait| Duration::try_from(wait).unwrap_or_default()).min(POLL))
    }

    async fn lane(&self, queue: &Queue) -> Result<(), StoreError> {
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
                self.store.release(vec![lease], self.now()).await?;
                return self.finish(ended).await;
            }
            // What was leased before the gate closed is as good for later.
            if self.gate.is_closed() {
                self.store.release(vec![lease], self.now()).await?;
                continue;
            }
            let (begun, finished) =
                tokio::join!(self.store.begin_attempt(lease, self.now()), self.finish(ended.take()));
            finished?;
            if let Some(work) = begun? {
                let report = self.attempt(&work).await;
                ended = Some(Ended { work, report });
            }
        }
    }

    /// Hands one message over. Nothing of the store is held meanwhile.
    async fn attempt(&self, work: &Work) -> Report {
        let _permits = (self.carrier.connection().await, self.gate.connection().await);
        if *self.stop.borrow() {
            return self.not_begun();
        }
        self.carrier.carry(&self.desk.tenant, &self.gate, work).await
    }

    /// The report of an attempt that was recorded and, because it is time to stop, not made.
    fn not_begun(&self) -> Report {
        Report {
            outcome: Outcome::Deferred,
            relay: self.carrier.place(self.tenant()),
            tls: None,
            stage: "stop".into(),
            code: None,
            enhanced: None,
            text: "the program stopped before the attempt was made".to_owned(),
            replies: Vec::new(),
            retry_after: None,
        }
    }

    async fn finish(&self, ended: Option<Ended>) -> Result<(), StoreError> {
        let Some(Ended { work, report }) = ended else { return Ok(()) };
        let (tenant, id) = (&self.tenant().name, work.lease.delivery);
        let delivery = id.0;
        self.tell(&work, &report);
        let (retry, now) = (self.tenant().retry, self.now());
        match self.store.finish_attempt(work.lease, work.attempt, report, retry, now).await {
            Ok(Some(Next { state, reason, .. })) if state.is_lost() && self.tenant().fallback.is_some() => {
                fall_back(&self.desk, &self.store, id, reason).await?;
                self.wake.tell();
                Ok(())
            }
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

    fn tell(&self, work: &Work, report: &Report) {
        let (tenant, delivery, attempt) = (&self.tenant().name, work.lease.delivery.0, work.attempt);
        match (report.outcome, self.carrier.channel()) {
            (Outcome::Accepted, Channel::Email) => info!(tenant, delivery, attempt, "the relay accepted"),
            (Outcome::Accepted, Channel::Record) => info!(tenant, delivery, attempt, "the CRM accepted"),
            (Outcome::Accepted, Channel::Webhook) => info!(tenant, delivery, attempt, "the webhook accepted"),
            (outcome, _) => {
                let (stage, code) = (&*report.stage, report.code);
                warn!(tenant, delivery, attempt, stage, code, "{}", outcome.as_str());
            }
        }
        if self.carrier.channel() == Channel::Record && report.code == Some(401) {
            error!(tenant, crm = report.relay, "the CRM refuses the login; look at record.login");
        }
        // The server's words may quote addresses, so they are for the log of the store and for debugging.
        debug!(tenant, delivery, answer = report.text, "the answer");
    }
}
