//! What takes a message to its target: connections to a relay, or a client of a CRM or of a webhook.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::TlsConnector;

use super::gate::Gate;
use crate::clock::Clock;
use crate::config::rate::Budget;
use crate::config::tenant::{Channel, Tenant};
use crate::deliver::auth::tokens;
use crate::deliver::connect::connect;
use crate::deliver::smtp::{Connection, Envelope, Sent};
use crate::deliver::tls::{TlsError, connector};
use crate::oauth::Tokens;
use crate::outbox::Report;
use crate::record::client::{Client, ClientError};
use crate::record::note::Note;
use crate::store::Work;
use crate::webhook;

/// Attempts that are recorded at a time, for each connection to a relay: one on the wire, the rest next in line. More of
/// them share a commit, and more are uncertain after a kill.
const LANES_PER_CONNECTION: usize = 6;
/// Requests to a webhook at a time.
const POSTS: usize = 2;
/// How long a CRM that asks to be left alone, and does not say for how long, is left alone.
const REST: SignedDuration = SignedDuration::from_secs(5);

/// Why a tenant's way cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The relay's.
    #[error(transparent)]
    Relay(#[from] TlsError),
    /// The CRM's, or the webhook's.
    #[error(transparent)]
    Http(#[from] ClientError),
}

/// What takes a tenant's messages to their target.
pub enum Carrier {
    /// Mails to a relay.
    Mail(Box<Mails>),
    /// Notes to a CRM, so many at a time.
    Record(Box<Client>, Semaphore),
    /// Notices to a webhook, so many at a time.
    Webhook(Box<webhook::client::Client>, Semaphore),
}

/// The way to a relay.
pub struct Mails {
    /// TLS towards it.
    tls: TlsConnector,
    /// What opens it, where it takes access tokens.
    tokens: Option<Tokens>,
    pool: Pool,
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

impl Carrier {
    /// Those of a tenant: one for its mails and, where it has them, one for its CRM over REST and for its webhook.
    pub fn all(tenant: &Tenant, clock: &Clock) -> Result<Vec<Self>, CarrierError> {
        let mails = Mails {
            tls: connector(tenant.relay.ca_file.as_deref())?,
            tokens: tokens(&tenant.relay, clock.clone())?,
            pool: Pool::new(tenant.relay.connections as usize),
        };
        let mut all = vec![Self::Mail(Box::new(mails))];
        if let Some(record) = &tenant.record {
            let permits = Semaphore::new(record.connections as usize);
            all.push(Self::Record(Box::new(Client::new(record, clock.clone())?), permits));
        }
        if let Some(hook) = &tenant.reactions.webhook {
            let client = webhook::client::Client::new(hook, clock.clone())?;
            all.push(Self::Webhook(Box::new(client), Semaphore::new(POSTS)));
        }
        Ok(all)
    }

    /// The channel.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Mail(_) => Channel::Email,
            Self::Record(..) => Channel::Record,
            Self::Webhook(..) => Channel::Webhook,
        }
    }

    /// Where the target is, as `host:port`.
    pub fn place(&self, tenant: &Tenant) -> String {
        match (self, &tenant.record, &tenant.reactions.webhook) {
            (Self::Record(..), Some(record), _) => record.place(),
            (Self::Webhook(..), _, Some(webhook)) => webhook.place(),
            _ => tenant.relay.place(),
        }
    }

    /// How much may be sent in a time.
    pub fn budgets(&self, tenant: &Tenant) -> Vec<Budget> {
        match (self, &tenant.record) {
            (Self::Record(..), Some(record)) => record.budgets.clone(),
            // Its notices are few: alerts are told once an hour, and people write replies.
            (Self::Webhook(..), _) => Vec::new(),
            _ => tenant.budgets.clone(),
        }
    }

    /// How many attempts are recorded at a time.
    pub fn lanes(&self, tenant: &Tenant) -> usize {
        match (self, &tenant.record) {
            // A request is long against a commit: nothing is gained by more.
            (Self::Record(..), Some(record)) => record.connections as usize,
            (Self::Webhook(..), _) => POSTS,
            _ => tenant.relay.connections as usize * LANES_PER_CONNECTION,
        }
    }

    /// The right to one of the tenant's connections. None only when the program ends.
    pub async fn connection(&self) -> Option<SemaphorePermit<'_>> {
        let permits = match self {
            Self::Mail(mails) => &mails.pool.permits,
            Self::Record(_, permits) | Self::Webhook(_, permits) => permits,
        };
        permits.acquire().await.ok()
    }

    /// Takes one message to its target, and tells the gate what that says of the way there.
    pub async fn carry(&self, tenant: &Tenant, gate: &Gate, work: &Work) -> Report {
        match self {
            Self::Mail(mails) => mails.carry(tenant, gate, work).await,
            Self::Record(client, _) => carry_note(client, tenant, gate, work).await,
            Self::Webhook(client, _) => {
                let posted = client.post(&work.message_id, &work.wire).await;
                tell(gate, &posted.report, posted.connected);
                posted.report
            }
        }
    }

    /// Tries the target without a message; what is good is kept.
    pub async fn probe(&self, tenant: &Tenant, gate: &Gate) {
        match self {
            Self::Mail(mails) => match connect(&tenant.relay, &mails.tls, mails.tokens.as_ref()).await {
                Ok(connection) => {
                    gate.works();
                    mails.pool.put(Some(Box::new(connection)));
                }
                Err(unusable) => gate.still_fails(&unusable),
            },
            Self::Record(client, _) => match client.reach().await {
                Ok(()) => gate.works(),
                Err(_) => gate.is_still_away(),
            },
            Self::Webhook(client, _) => match client.reach().await {
                Ok(()) => gate.works(),
                Err(_) => gate.is_still_away(),
            },
        }
    }

    /// Closes the connections that were not used for `age`.
    pub async fn close(&self, age: Duration) {
        if let Self::Mail(mails) = self {
            mails.pool.close(age).await;
        }
    }
}

impl Mails {
    async fn carry(&self, tenant: &Tenant, gate: &Gate, work: &Work) -> Report {
        let envelope = Envelope {
            id: &work.envelope_id,
            from: &work.envelope_from,
            recipient: &work.recipient,
            wire: &work.wire,
        };
        if let Some(connection) = self.pool.take()
            && let Sent::Ended(report, kept) = connection.send(envelope).await
        {
            self.pool.put(kept);
            return report;
        }
        let relay = &tenant.relay;
        match connect(relay, &self.tls, self.tokens.as_ref()).await {
            Ok(connection) => {
                gate.works();
                match connection.send(envelope).await {
                    Sent::Ended(report, kept) => {
                        self.pool.put(kept);
                        report
                    }
                    Sent::Stale(report) => report,
                }
            }
            Err(unusable) => {
                gate.fails(&unusable);
                unusable.report(relay)
            }
        }
    }
}

async fn carry_note(client: &Client, tenant: &Tenant, gate: &Gate, work: &Work) -> Report {
    let note = Note::from_bytes(&work.wire).unwrap_or_else(Note::blank);
    let file = work.file.as_deref().unwrap_or_default();
    let attached = client.attach(&note, file, &tenant.title, work.attempt > 1).await;
    tell(gate, &attached.report, attached.connected);
    attached.report
}

/// Tells the gate what an answer over HTTP, or none, says of the way there.
fn tell(gate: &Gate, report: &Report, connected: bool) {
    match report.code {
        _ if !connected => gate.is_away(&report.text),
        // RFC 6585, section 4: whatever else waits would only be told the same.
        Some(429) => gate.rest(report.retry_after.unwrap_or(REST)),
        _ => gate.is_there(),
    }
}
