//! Kills `aftercall serve` at random moments while it takes and sends sessions, and counts what arrived.
//!
//! `cargo bench --bench kill -- [--kills N] [--sessions N] [--seed N]`
//! Every session's mail must arrive; one that arrives twice must have an attempt that the log calls uncertain,
//! and its bytes must be the same both times.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "../tests/it/arrivals.rs"]
mod arrivals;
#[path = "support/dice.rs"]
mod dice;
#[path = "support/serving.rs"]
mod serving;
mod support;

use std::path::Path;
use std::time::Duration;

use aftercall::sink::{Script, Sink};
use arrivals::{Arrivals, UNCERTAIN};
use dice::Dice;
use serving::Serving;
use support::{Result, aftercall, number, write_sessions, write_tenant};

fn main() -> Result<()> {
    let value =
        |flag, default| Ok::<_, Box<dyn std::error::Error>>(number(flag, default)?.unwrap_or(default));
    let (kills, sessions) = (value("--kills", 200)?, value("--sessions", 2_000)?);
    let mut dice = Dice::new(value("--seed", 20_261_122)?);
    let runtime = tokio::runtime::Runtime::new()?;
    let sink =
        runtime.block_on(Sink::start(Script { delay: Duration::from_millis(50), ..Script::default() }))?;
    let folder = tempfile::tempdir()?;
    let relay = format!("port = {}\ntls = \"none\"\nconnections = 8\n", sink.address().port());
    write_tenant(folder.path(), "bench", &relay)?;
    let (inbox, store) = (folder.path().join("inbox-bench"), folder.path().join("store.sqlite"));
    write_sessions(&inbox, 1, sessions)?;
    for _ in 0..kills {
        let mut serve = Serving::start(folder.path(), &store.to_string_lossy())?;
        std::thread::park_timeout(Duration::from_millis(60 + dice.roll(260)));
        serve.running()?;
    }
    let killed_at = sink.received().len();
    finish(folder.path(), &inbox, &store)?;
    let uncertain = rusqlite::Connection::open(&store)?
        .prepare(UNCERTAIN)?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let arrivals = Arrivals::count(&sink.received(), sessions, &uncertain);
    println!("{kills} kills, {killed_at} mails read by the server before the last of them; {arrivals}");
    if arrivals.is_sound() { Ok(()) } else { Err("mail was lost, or doubled without a mark".into()) }
}

/// Takes what no life of `serve` came to, and sends until everything is settled.
fn finish(folder: &Path, inbox: &Path, store: &Path) -> Result<()> {
    let status =
        aftercall(folder).arg("send").arg("--all").arg(inbox).env("AFTERCALL_STORE", store).status()?;
    if status.success() { Ok(()) } else { Err(format!("send ended with {status}").into()) }
}
