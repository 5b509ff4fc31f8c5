//! The way to one relay, which all tenants that use it share: how many connections at a time, and whether it is
//! worth trying at all.
//!
//! A relay that cannot be reached, or does not greet, three times in a row is left alone for a while. No delivery is
//! taken meanwhile, so none is used up; then one connection is tried without a message, and only when it is good
//! does everything go on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{info, warn};

use crate::config::SharedRelay;
use crate::config::record::Record;
use crate::config::tenant::Tenant;
use crate::config::webhook::Webhook;
use crate::deliver::connect::Unusable;
use crate::deliver::outcome::Stage;

/// So many faults in a row close the gate.
const FAULTS: u32 = 3;
/// The first time that a closed gate stays closed; it doubles with each probe that fails.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time.
const LONGEST: Duration = Duration::from_secs(60);

/// All relays, CRMs and webhooks of some tenants, by `host:port`.
pub type Gates = BTreeMap<String, Arc<Gate>>;

/// The gates of these tenants' relays, CRMs and webhooks.
pub fn gates(tenants: &[&Tenant], relays: &BTreeMap<String, SharedRelay>) -> Gates {
    let gate = |place: String| {
        let connections = relays.get(&place).and_then(|relay| relay.connections);
        (place.clone(), Arc::new(Gate::new(place, connections.unwrap_or(Semaphore::MAX_PERMITS))))
    };
    let places = |tenant: &Tenant| {
        let webhook = tenant.reactions.webhook.as_ref().map(Webhook::place);
        [Some(tenant.relay.place()), tenant.record.as_ref().map(Record::place), webhook]
    };
    tenants.iter().copied().flat_map(places).flatten().map(gate).collect()
}

/// The way to one relay.
#[derive(Debug)]
pub struct Gate {
    place: String,
    connections: Semaphore,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    faults: u32,
    closed: Option<Closed>,
}

#[derive(Debug, Clone, Copy)]
struct Closed {
    until: Instant,
    wait: Duration,
}

/// What may be done about a relay now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Deliveries may be taken.
    Open,
    /// Nothing may be taken for this long.
    Closed(Duration),
    /// Whoever is told this tries one connection, and says how it went.
    Probe,
}

impl Gate {
    /// A gate that was never closed.
    pub fn new(place: String, connections: usize) -> Self {
        Self { place, connections: Semaphore::new(connections), health: Mutex::default() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to one connection, in the order of asking. None only when the program ends.
    pub async fn connection(&self) -> Option<SemaphorePermit<'_>> {
        self.connections.acquire().await.ok()
    }

    /// What may be done now.
    pub fn way(&self) -> Way {
        let mut health = self.health();
        let Some(closed) = &mut health.closed else { return Way::Open };
        let left = closed.until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Way::Closed(left);
        }
        // The next one to ask waits for this one's answer, or for as long again.
        closed.until = Instant::now() + closed.wait;
        Way::Probe
    }

    /// Whether deliveries must wait.
    pub fn is_closed(&self) -> bool {
        self.health().closed.is_some()
    }

    /// A connection was good.
    pub fn works(&self) {
        let mut health = self.health();
        if health.closed.is_some() {
            info!(relay = self.place, "the relay is back");
        }
        *health = Health::default();
    }

    /// A connection for a message could not be used. What is said about a tenant's login is no fault of the relay's.
    pub fn fails(&self, why: &Unusable) {
        if why.stage >= Stage::Auth {
            return self.works();
        }
        self.is_away(why);
    }

    /// No connection could be made for a message.
    pub fn is_away(&self, why: &dyn fmt::Display) {
        let mut health = self.health();
        health.faults += 1;
        // Those that were under way when the gate closed say nothing new.
        if health.faults >= FAULTS && health.closed.is_none() {
            warn!(relay = self.place, cause = %why, "the relay cannot be used; its deliveries wait");
            health.closed = Some(Closed { until: Instant::now() + FIRST, wait: FIRST });
        }
    }

    /// The other side answered. A gate that it asked to be closed stays so.
    pub fn is_there(&self) {
        self.health().faults = 0;
    }

    /// The other side asks to be left alone for a while, within our bound.
    pub fn rest(&self, wait: SignedDuration) {
        let wait = Duration::try_from(wait).unwrap_or_default().clamp(FIRST, LONGEST);
        info!(relay = self.place, seconds = wait.as_secs(), "left alone, as it asked");
        self.health().closed = Some(Closed { until: Instant::now() + wait, wait: FIRST });
    }

    /// A probe could not use its connection: the next one is later.
    pub fn still_fails(&self, why: &Unusable) {
        if why.stage >= Stage::Auth {
            return self.works();
        }
        self.is_still_away();
    }

    /// A probe could make no connection.
    pub fn is_still_away(&self) {
        if let Some(closed) = &mut self.health().closed {
            closed.wait = (closed.wait * 2).min(LONGEST);
            closed.until = Instant::now() + closed.wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(stage: Stage) -> Unusable {
        Unusable { stage, code: None, text: "refused".to_owned() }
    }

    #[test]
    fn faults_in_a_row_close_the_gate_until_a_connection_is_good() {
        let gate = Gate::new("r:25".to_owned(), 1);
        for _ in 0..2 {
            gate.fails(&fault(Stage::Connect));
            gate.fails(&fault(Stage::Greeting));
            assert_eq!(gate.way(), Way::Open, "two are an accident");
            gate.works();
        }
        for stage in [Stage::Connect, Stage::Tls, Stage::Greeting] {
            gate.fails(&fault(stage));
        }
        assert!(matches!(gate.way(), Way::Closed(left) if left <= FIRST));
        gate.health().closed.as_mut().unwrap().until = Instant::now();
        assert_eq!(gate.way(), Way::Probe);
        assert!(matches!(gate.way(), Way::Closed(_)), "one probes, the others wait");
        gate.fails(&fault(Stage::Connect));
        assert!(
            matches!(gate.way(), Way::Closed(left) if left <= FIRST),
            "what was under way says nothing new"
        );
        gate.still_fails(&fault(Stage::Connect));
        assert!(
            matches!(gate.way(), Way::Closed(left) if left > FIRST && left <= FIRST * 2),
            "longer each time"
        );
        gate.works();
        assert_eq!(gate.way(), Way::Open);
    }

    #[test]
    fn a_wrong_password_is_not_the_relays_fault() {
        let gate = Gate::new("r:25".to_owned(), 1);
        for _ in 0..9 {
            gate.fails(&fault(Stage::Auth));
        }
        assert_eq!(gate.way(), Way::Open);
    }
}
