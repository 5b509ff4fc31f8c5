//! What a large store costs.
//!
//! `cargo bench --bench limits -- FIGURE`, where FIGURE is one of
//!
//! - `--rows [N]`: sessions per second into a store with so many log rows, beside an empty one, by turns;
//! - `--backlog [N]`: the most memory of `serve` while it starts with so many deliveries due and sends the first;
//! - `--restart [N]`: from the start of `serve` to its first mail, in a store with so many deliveries, a few of them due.
//!
//! `--rows` needs `smtp-sink` (Debian package postfix; no service is started), and 1.2 kB of disk for a log row.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "support/cost.rs"]
mod cost;
#[path = "support/fill.rs"]
mod fill;
#[path = "support/postfix.rs"]
mod postfix;
#[path = "support/serving.rs"]
mod serving;
mod support;
#[path = "../tests/it/waiting.rs"]
mod waiting;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aftercall::sink::{Script, Sink};
use cost::{by_turns, cost_of, resident_peak, send_all};
use fill::Filling;
use postfix::SmtpSink;
use rusqlite::{Connection, OptionalExtension};
use serving::Serving;
use support::{Result, number, write_sessions, write_tenant};
use waiting::until;

/// Sessions of one run into a filled store.
const SESSIONS: usize = 10_000;
/// What `serve` may take.
const BAR_MB: u64 = 64;
/// The bar of a restart.
const BAR: Duration = Duration::from_secs(1);
/// How many of a backlog are sent before its memory is told.
const FIRST: i64 = 5_000;

fn main() -> Result<()> {
    if let Some(rows) = number("--rows", 10_000_000)? {
        return rows_of_log(rows);
    }
    if let Some(count) = number("--backlog", 100_000)? {
        return backlog(count);
    }
    restart(number("--restart", 1_000_000)?.unwrap_or(1_000_000))
}

/// What was written to make ready goes to the disk before a run, not beside it.
fn settle() -> Result<()> {
    Ok(Command::new("sync").status().map(drop)?)
}

fn rows_of_log(rows: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (config, sink) = (folder.path(), SmtpSink::start()?);
    write_tenant(config, "bench", "connections = 8\n")?;
    let full = config.join("full.sqlite");
    let (sent, began) = (rows as u64 / 2, Instant::now());
    Filling::open(&full)?.put(1..sent + 1, true)?;
    let size = std::fs::metadata(&full)?.len() / 1_000_000;
    println!("{rows} log rows, {size} MB, filled in {:.0} s", began.elapsed().as_secs_f64());
    let [filled, empty] = by_turns(3, |which, round| {
        let inbox = config.join(format!("inbox-{round}"));
        if which == 0 {
            write_sessions(&inbox, usize::try_from(sent)? + 1 + round * SESSIONS, SESSIONS)?;
        }
        let store = if which == 0 { full.clone() } else { config.join(format!("empty-{round}.sqlite")) };
        settle()?;
        let cost = cost_of(&mut send_all(config, &inbox, &store.to_string_lossy(), sink.port))?;
        let name = if which == 0 { "full" } else { "empty" };
        println!("{name:<5} {:>7.0} sessions a second, {cost}", cost.rate(SESSIONS));
        Ok(cost)
    })?;
    println!("ratio of the full store to an empty one: {:.2}", empty.as_secs_f64() / filled.as_secs_f64());
    Ok(())
}

/// A relay of the tenant `bench` on this machine.
fn relay(folder: &Path, port: u16) -> std::io::Result<()> {
    write_tenant(folder, "bench", &format!("port = {port}\ntls = \"none\"\nconnections = 8\n"))
}

fn sink(script: Script) -> Result<(tokio::runtime::Runtime, Sink)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let sink = runtime.block_on(Sink::start(script))?;
    Ok((runtime, sink))
}

/// How many records the tenant's log has.
fn records(store: &Connection) -> rusqlite::Result<i64> {
    let number = store.query_row("SELECT number FROM chains WHERE tenant = 'bench'", [], |row| row.get(0));
    Ok(number.optional()?.unwrap_or(0))
}

fn backlog(count: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("store.sqlite");
    write_sessions(&folder.path().join("inbox-bench"), 1, count)?;
    // A relay that is down in the way that leaves most waiting: it takes connections and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0))?;
    relay(folder.path(), silent.local_addr()?.port())?;
    let while_taking = serve_until(folder.path(), &store, |records| records >= count as i64)?;
    let (_runtime, sink) = sink(Script { forgetful: true, ..Script::default() })?;
    relay(folder.path(), sink.address().port())?;
    let first = FIRST.min(count as i64);
    let peak = serve_until(folder.path(), &store, |records| records >= count as i64 + first)?;
    println!(
        "{count} deliveries waiting: peak {peak:.1} MB while serve starts and sends {first} (bar {BAR_MB} MB, ratio {:.2}); \
         {while_taking:.1} MB while they were taken",
        peak / BAR_MB as f64
    );
    Ok(())
}

/// Serves until the log has so many records, and gives the most memory in MB.
fn serve_until(folder: &Path, store: &Path, is_enough: impl Fn(i64) -> bool) -> Result<f64> {
    let mut serve = Serving::start(folder, &store.to_string_lossy())?;
    loop {
        std::thread::park_timeout(Duration::from_millis(100));
        let process = serve.running()?;
        // The database comes into being while the program starts.
        let count = Connection::open_with_flags(store, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        if count.and_then(|store| records(&store)).is_ok_and(&is_enough) {
            return Ok(resident_peak(process).unwrap_or(0) as f64 / 1024.0);
        }
    }
}

fn restart(rows: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("store.sqlite");
    let (_runtime, sink) = sink(Script::default())?;
    relay(folder.path(), sink.address().port())?;
    let mut next = rows as u64 + 1;
    Filling::open(&store)?.put(1..next, true)?;
    let mut times = Vec::new();
    for _ in 0..5 {
        Filling::open(&store)?.put(next..next + 3, false)?;
        next += 3;
        settle()?;
        let (before, began) = (sink.received().len(), Instant::now());
        let _serve = Serving::start(folder.path(), &store.to_string_lossy())?;
        until("the first mail", || (sink.received().len() > before).then_some(()));
        times.push(began.elapsed());
        until("the others", || (sink.received().len() >= before + 3).then_some(()));
    }
    times.sort_unstable();
    let told: Vec<String> = times.iter().map(|time| format!("{} ms", time.as_millis())).collect();
    println!(
        "{rows} deliveries and {} log rows: from start to the first mail {} (bar {BAR:?}, ratio of the median {:.2})",
        rows * 2,
        told.join(", "),
        times[times.len() / 2].as_secs_f64() / BAR.as_secs_f64()
    );
    Ok(())
}
