//! Three instances of `serve` share one PostgreSQL and one tenant, and are killed at random; what arrived is counted.
//!
//! `cargo bench --bench instances -- [--sessions N] [--kills N] [--seed N]`
//! Every session's mail must arrive; one that arrives twice must have an attempt that the log calls uncertain, and its
//! bytes must be the same both times. Needs Debian's package postgresql.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "../tests/it/arrivals.rs"]
mod arrivals;
#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/serving.rs"]
mod serving;
mod support;
#[path = "../tests/it/waiting.rs"]
mod waiting;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aftercall::config::StorePlace;
use aftercall::sink::{Script, Sink};
use aftercall::store::Store;
use arrivals::{Arrivals, UNCERTAIN};
use cluster::postgres::{ask, database};
use dice::Dice;
use serving::Serving;
use support::{Result, number, write_sessions, write_tenant};

/// How many instances there are.
const INSTANCES: usize = 3;
/// How long nothing may be accepted before the rest counts as lost: a lease and more.
const STANDSTILL: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let sessions = number("--sessions", 20_000)?.unwrap_or(20_000);
    let kills = number("--kills", 30)?.unwrap_or(30);
    let mut dice = Dice::new(number("--seed", 20_261_122)?.unwrap_or(20_261_122));
    let runtime = tokio::runtime::Runtime::new()?;
    let script = Script { delay: Duration::from_millis(50), ..Script::default() };
    let sink = runtime.block_on(Sink::start(script))?;
    let (folder, store, began) = (tempfile::tempdir()?, database(), Instant::now());
    // So that there is something to ask before the first instance is up.
    drop(Store::open(&StorePlace::parse(&store))?);
    let folders: Vec<PathBuf> = (0..INSTANCES).map(|at| folder.path().join(at.to_string())).collect();
    let share = sessions.div_ceil(INSTANCES);
    for (at, folder) in folders.iter().enumerate() {
        let port = sink.address().port();
        write_tenant(folder, "bench", &format!("port = {port}\ntls = \"none\"\nconnections = 8\n"))?;
        let first = 1 + at * share;
        write_sessions(&folder.join("inbox-bench"), first, share.min((sessions + 1).saturating_sub(first)))?;
    }
    let start = |folder: &PathBuf| Serving::start(folder, &store);
    let mut serving = folders.iter().map(start).collect::<Result<Vec<_>>>()?;
    let mut killed = 0;
    while killed < kills && accepted(&store)? < sessions {
        std::thread::park_timeout(Duration::from_millis(300 + dice.roll(1_200)));
        let one = usize::try_from(dice.roll(INSTANCES as u64))?;
        serving[one].running()?;
        // Killed where it is dropped; the next life begins beside those that go on.
        drop(serving.remove(one));
        serving.insert(one, start(&folders[one])?);
        killed += 1;
    }
    settle(&store, sessions)?;
    drop(serving);
    let uncertain = ask(&store, UNCERTAIN).lines().map(str::to_owned).collect();
    let arrivals = Arrivals::count(&sink.received(), sessions, &uncertain);
    println!("{INSTANCES} instances, {killed} kills, {:.0} s; {arrivals}", began.elapsed().as_secs_f64());
    print_take_overs(&store)?;
    if arrivals.is_sound() { Ok(()) } else { Err("mail was lost, or doubled without a mark".into()) }
}

fn accepted(store: &str) -> Result<usize> {
    Ok(ask(store, "SELECT count(*) FROM deliveries WHERE state = 'accepted'").trim().parse()?)
}

/// Waits until everything is accepted, or nothing more comes.
fn settle(store: &str, sessions: usize) -> Result<()> {
    let (mut known, mut since) = (0, Instant::now());
    while known < sessions && since.elapsed() < STANDSTILL {
        std::thread::park_timeout(Duration::from_millis(250));
        let now = accepted(store)?;
        if now > known {
            (known, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// From the beginning of an attempt that was broken off, which is up to a message's time before the kill, until
/// another instance, or the next life of the same one, took it over.
fn print_take_overs(store: &str) -> Result<()> {
    let taken = ask(store, "SELECT ended_at - began_at FROM attempts WHERE stage = 'restart' ORDER BY 1");
    let taken = taken.lines().map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    match (taken.get(taken.len() / 2), taken.last()) {
        (Some(median), Some(longest)) => println!(
            "{} attempts taken over, {:.1} s after they began in the median, {:.1} s at most",
            taken.len(),
            median / 1000.0,
            longest / 1000.0
        ),
        _ => println!("no attempt had to be taken over"),
    }
    Ok(())
}
