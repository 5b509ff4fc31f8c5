//! `aftercall serve`: watch, send, retry, read mailboxes, until told to stop.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Exit, desks, open_store, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::tenant::Tenant;
use crate::flow::collect::Collector;
use crate::flow::desk::Desk;
use crate::flow::dispatch::{Dispatcher, Wake};
use crate::flow::gate::{Gates, gates};
use crate::flow::presence::Presence;
use crate::flow::reconcile::Reconciler;
use crate::flow::watch::Watcher;
use crate::store::{Instance, Store, StoreError};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only these tenants.
    #[arg(long, value_name = "T")]
    tenant: Vec<String>,
}

pub(super) async fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let tenants: Vec<&Tenant> = if arguments.tenant.is_empty() {
        config.tenants.values().collect()
    } else {
        arguments.tenant.iter().map(|name| tenant(config, Some(name))).collect::<Result<_, _>>()?
    };
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let store = open_store(config)?;
    let mut locks = Vec::new();
    for tenant in &tenants {
        let Some(lock) = store.lock_delivery(&tenant.name)? else {
            error!(tenant = tenant.name, "another aftercall is delivering for this tenant from this store");
            return Ok(Exit::TryAgain);
        };
        locks.push(lock);
    }
    let gates = gates(&tenants, &config.relays);
    let mut presence = Presence::begin(&store, &tenants, &Clock::default()).await?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let desks = desks(config, &store).await?;
    let reconciler = Reconciler::new(config, desks.clone(), store.clone())?;
    tasks.spawn(reconciler.run(stopped.clone()));
    for desk in desks.iter().filter(|desk| names.contains(&desk.tenant.name.as_str())) {
        start(desk.clone(), &gates, &store, presence.instance, &stopped, &mut tasks)?;
    }
    for mailbox in config.mailboxes.iter().filter(|mailbox| names.iter().any(|name| mailbox.is_of(name))) {
        let collector = Collector::new(mailbox, &store, presence.instance, Clock::default())?;
        tasks.spawn(collector.run(stopped.clone()));
    }
    info!(store = %config.store, "serving");
    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = tasks.join_next() => ended,
        lost = presence.lost() => Some(Ok(Err(lost))),
    };
    info!("stopping: messages on the wire are finished first");
    stop.send_replace(true);
    let mut result = failed.map_or(Ok(()), |ended| ended.unwrap_or(Err(StoreError::Closed)));
    while let Some(ended) = tasks.join_next().await {
        result = result.and(ended.unwrap_or(Err(StoreError::Closed)));
    }
    result?;
    presence.end().await?;
    drop(locks);
    info!("stopped");
    Ok(Exit::Done)
}

fn start(
    desk: Desk,
    gates: &Gates,
    store: &Store,
    instance: Instance,
    stopped: &watch::Receiver<bool>,
    tasks: &mut JoinSet<Result<(), StoreError>>,
) -> anyhow::Result<()> {
    let tenant = Arc::clone(&desk.tenant);
    let wake = Wake::default();
    for dispatcher in Dispatcher::of_tenant(&desk, store, instance, gates, &wake, stopped)? {
        tasks.spawn(dispatcher.run());
    }
    match &tenant.folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            let watcher =
                Watcher { desk, store: store.clone(), folder: folder.clone(), wake, stop: stopped.clone() };
            tasks.spawn(watcher.run());
        }
        None => warn!(tenant = tenant.name, "no folder is configured; nothing is watched"),
    }
    Ok(())
}
