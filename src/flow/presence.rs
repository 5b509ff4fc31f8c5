//! The presence of this process among those that deliver from a store: its sign of life, and its eye on those that
//! give none any more.

use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::config::tenant::{Channel, Tenant};
use crate::store::{Instance, Store, StoreError};

/// How often a sign of life is given: several times before it would be missed.
const BEAT: Duration = Duration::from_secs(5);

/// A process that delivers for some tenants.
pub struct Presence {
    /// Who it is.
    pub instance: Instance,
    store: Store,
    beating: JoinHandle<StoreError>,
}

impl Presence {
    /// Joins those that deliver, and takes over what dead ones have left of the tenants'.
    pub async fn begin(store: &Store, tenants: &[&Tenant], clock: &Clock) -> Result<Self, StoreError> {
        let instance = store.join(clock.now()).await?;
        let watched: Vec<(String, _)> =
            tenants.iter().map(|tenant| (tenant.name.clone(), tenant.retry)).collect();
        for (tenant, retry) in &watched {
            let uncertain = store.recover(tenant.clone(), instance, *retry, clock.now()).await?;
            info!(tenant, uncertain, "took over");
        }
        for tenant in tenants {
            for channel in Channel::ALL.into_iter().filter(|channel| !tenant.has(*channel)) {
                let held = store.hold_channel(tenant.name.clone(), channel, clock.now()).await?;
                if held > 0 {
                    let (tenant, channel) = (&tenant.name, channel.as_str());
                    warn!(tenant, channel, held, "held what waits for a channel that the tenant has no more");
                }
            }
        }
        let (beating_store, clock) = (store.clone(), clock.clone());
        let beating = tokio::spawn(async move {
            let store = beating_store;
            loop {
                tokio::time::sleep(BEAT).await;
                match store.heartbeat(instance, clock.now()).await {
                    Ok(true) => {}
                    Ok(false) => return StoreError::TakenForDead,
                    Err(error) => return error,
                }
                for (tenant, retry) in &watched {
                    match store.recover(tenant.clone(), instance, *retry, clock.now()).await {
                        Ok(0) => {}
                        Ok(uncertain) => {
                            warn!(tenant, uncertain, "took over from an instance that fell silent");
                        }
                        Err(error) => return error,
                    }
                }
            }
        });
        Ok(Self { instance, store: store.clone(), beating })
    }

    /// Waits until the presence cannot go on, and says why.
    pub async fn lost(&mut self) -> StoreError {
        (&mut self.beating).await.unwrap_or(StoreError::Closed)
    }

    /// Leaves, once nothing is held any more.
    pub async fn end(self) -> Result<(), StoreError> {
        self.beating.abort();
        self.store.leave(self.instance).await
    }
}
