//! `aftercall outbox`: what waits and why, and what a person does about it.

use std::io::{self, Write};

use clap::Subcommand;

use super::log::{FilterArguments, stamp};
use super::table::{Format, Rows};
use super::{Exit, Misuse, open_store, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::DeliveryId;
use crate::outbox::{STATES, State};
use crate::store::{Change, Filter, Store};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    filter: FilterArguments,
    /// How to write.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Try again now, also what was given up.
    Retry(Chosen),
    /// Keep from being sent until released.
    Hold(Chosen),
    /// Let what was held go.
    Release(Chosen),
    /// Never send.
    Cancel(Chosen),
    /// Stop all sending of a tenant; sessions are taken all the same.
    Pause(Whose),
    /// Let a tenant's sending go on.
    Resume(Whose),
}

/// One tenant.
#[derive(Debug, clap::Args)]
struct Whose {
    /// The tenant; not needed where there is only one.
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
}

/// Deliveries by number, or all that match a filter.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// The deliveries' numbers.
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    #[command(flatten)]
    filter: FilterArguments,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<Exit> {
    let store = open_store(config)?;
    let (change, chosen) = match arguments.what {
        None => return list(config, &store, &arguments.filter, arguments.format).await,
        Some(What::Pause(whose)) => return pause(config, &store, &whose, true).await,
        Some(What::Resume(whose)) => return pause(config, &store, &whose, false).await,
        Some(What::Retry(chosen)) => (Change::Retry, chosen),
        Some(What::Hold(chosen)) => (Change::Hold, chosen),
        Some(What::Release(chosen)) => (Change::Release, chosen),
        Some(What::Cancel(chosen)) => (Change::Cancel, chosen),
    };
    if chosen.ids.is_empty() && chosen.filter.is_empty() {
        return Err(Misuse("name deliveries by number, or choose them with --session, --ticket, --recipient, --state, --since or --tenant".to_owned()).into());
    }
    let filter =
        Filter { ids: chosen.ids.iter().copied().map(DeliveryId).collect(), ..chosen.filter.filter()? };
    let by_number = !chosen.ids.is_empty();
    change_all(&store, filter, change, by_number).await
}

/// A delivery that a filter chose in a state where there is nothing to do is passed over; one that was named by
/// number is a failure.
async fn change_all(store: &Store, filter: Filter, change: Change, by_number: bool) -> anyhow::Result<Exit> {
    let named = filter.ids.clone();
    let changed = store.change(filter, change, Clock::default().now()).await?;
    let mut out = io::stdout().lock();
    let mut exit = Exit::Done;
    for one in &changed {
        match &one.result {
            Ok(state) => writeln!(out, "delivery {}: {state}", one.id)?,
            Err(why) if by_number => {
                writeln!(io::stderr(), "delivery {} stays: it {why}", one.id)?;
                exit = Exit::Failed;
            }
            Err(_) => {}
        }
    }
    for id in named.iter().filter(|id| !changed.iter().any(|one| one.id == **id)) {
        writeln!(io::stderr(), "there is no delivery {id} that matches")?;
        exit = Exit::Failed;
    }
    if !by_number && !changed.iter().any(|one| one.result.is_ok()) {
        writeln!(out, "nothing to do")?;
    }
    Ok(exit)
}

async fn pause(config: &Config, store: &Store, whose: &Whose, pause: bool) -> anyhow::Result<Exit> {
    let tenant = tenant(config, whose.tenant.as_deref())?;
    let changed = store.pause(tenant.name.clone(), pause, Clock::default().now()).await?;
    let (now, before) =
        if pause { ("is paused", "was paused already") } else { ("goes on", "was not paused") };
    writeln!(io::stdout(), "{} {}", tenant.name, if changed { now } else { before })?;
    Ok(Exit::Done)
}

async fn list(
    config: &Config,
    store: &Store,
    filter: &FilterArguments,
    format: Format,
) -> anyhow::Result<Exit> {
    let mut filter = filter.filter()?;
    if filter.states.is_empty() {
        let over = [State::Accepted, State::Superseded, State::Cancelled];
        filter.states =
            STATES.iter().map(|(state, _)| *state).filter(|state| !over.contains(state)).collect();
    }
    let mut rows =
        Rows::new(&["id", "tenant", "session", "ticket", "recipient", "state", "attempts", "due", "reason"]);
    for row in store.deliveries(&filter)? {
        rows.push(vec![
            row.id.0.into(),
            row.tenant.into(),
            row.session.to_string().into(),
            row.ticket.into(),
            row.recipient.into(),
            row.state.as_str().into(),
            row.attempts.into(),
            row.due.map(stamp).into(),
            row.reason.into(),
        ]);
    }
    rows.write(&mut io::stdout().lock(), format)?;
    for tenant in config.tenants.keys() {
        if store.is_paused(tenant.clone()).await? {
            writeln!(
                io::stderr(),
                "{tenant} is paused: nothing of it is sent until `aftercall outbox resume`"
            )?;
        }
    }
    Ok(Exit::Done)
}
