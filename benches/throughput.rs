//! Sessions per second, from file to logged acceptance, each figure beside another of the same command.
//!
//! `cargo bench --bench throughput -- [--sessions N] [--rounds N] [FIGURE]`, where FIGURE is one of
//!
//! - nothing: beside Postfix's `smtp-source` into the same `smtp-sink`;
//! - `--growth [TIMES]`: the same again and again into one store, the last beside `smtp-source`;
//! - `--engine postgres`: PostgreSQL and SQLite by turns, and both beside `smtp-source`;
//! - `--durability`: with every sync to the disk and with none, by turns;
//! - `--relay-delay [MS]`: beside what 4 and 16 connections allow to a relay that takes so long for each message.
//!
//! It needs `smtp-source` and `smtp-sink` (Debian package postfix; no service is started), for PostgreSQL also that
//! package, for the durability a C compiler.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/cost.rs"]
mod cost;
#[path = "support/postfix.rs"]
mod postfix;
mod support;
#[path = "support/syncs.rs"]
mod syncs;
#[path = "../tests/it/waiting.rs"]
mod waiting;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aftercall::sink::{Script, Sink};
use cost::{Cost, by_turns, cost_of, send_all};
use postfix::SmtpSink;
use support::{Result, number, write_sessions, write_tenant};
use syncs::Syncs;
use tempfile::TempDir;

/// Connections of both programs.
const CONNECTIONS: usize = 8;

fn main() -> Result<()> {
    let sessions = number("--sessions", 20_000)?.unwrap_or(20_000);
    let rounds = number("--rounds", 3)?.unwrap_or(3);
    match std::env::args().skip_while(|word| word != "--engine").nth(1).as_deref() {
        None | Some("sqlite") => {}
        Some("postgres") => return postgres(sessions, rounds),
        Some(other) => return Err(format!("there is no engine {other}").into()),
    }
    if std::env::args().any(|word| word == "--durability") {
        return durability(sessions, rounds);
    }
    if let Some(delay) = number("--relay-delay", 50)? {
        return relay_delay(delay);
    }
    growth(sessions, number("--growth", 10)?.unwrap_or(1))
}

/// A folder with a configuration.
fn site(connections: usize) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    write_tenant(folder.path(), "bench", &format!("connections = {connections}\n"))?;
    Ok(folder)
}

/// A path in a folder, as the text of a flag.
fn text(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

fn print(name: &str, sessions: usize, cost: &Cost, rest: &str) {
    let cpu = cost.cpu.as_secs_f64() * 1000.0 / sessions as f64;
    println!("{name:<26} {:>7.0} a second  {cpu:.3} CPU s per 1,000  {rest}", cost.rate(sessions));
}

fn growth(sessions: usize, rounds: usize) -> Result<()> {
    let (folder, sink) = (site(CONNECTIONS)?, SmtpSink::start()?);
    let store = text(folder.path(), "store.sqlite");
    let (mut first, mut last) = (None, None);
    for round in 0..rounds {
        let inbox = folder.path().join(format!("inbox-{round}"));
        write_sessions(&inbox, 1 + round * sessions, sessions)?;
        let cost = cost_of(&mut send_all(folder.path(), &inbox, &store, sink.port))?;
        let (octets, rows) = stored(&store)?;
        let (peak, waited) = (cost.peak / 1024, waited(&store)?);
        let about = format!("peak {peak} MB  {rows} log rows  {octets} octets a mail  out after {waited} ms");
        print("aftercall", sessions, &cost, &about);
        first.get_or_insert(cost);
        last = Some((cost, octets));
    }
    if let (Some(first), Some((last, octets))) = (first, last) {
        if rounds > 1 {
            println!(
                "ratio of the last to the first: {:.2}",
                first.wall.as_secs_f64() / last.wall.as_secs_f64()
            );
        }
        beside_smtp_source(sessions, octets, sink.port, &[("aftercall", last.wall)])?;
    }
    Ok(())
}

/// `smtp-source` with so many mails of this size over so many connections, kept or a new one for each mail.
fn smtp_source(mails: usize, octets: i64, port: u16, connections: usize, keep: bool) -> Result<Cost> {
    let mut command = Command::new("/usr/sbin/smtp-source");
    if keep {
        command.arg("-d");
    }
    command.args(["-s", &connections.to_string(), "-m", &mails.to_string(), "-l", &octets.to_string()]);
    command.args(["-f", "bridge@example.com", "-t", "crm@example.com", &format!("127.0.0.1:{port}")]);
    cost_of(&mut command)
}

/// Prints what `smtp-source` does with as many mails of this size, and the ratio of each of ours to it.
fn beside_smtp_source(mails: usize, octets: i64, port: u16, ours: &[(&str, Duration)]) -> Result<()> {
    for (keep, how) in [(true, "connections kept"), (false, "a connection each")] {
        let theirs = smtp_source(mails, octets, port, CONNECTIONS, keep)?;
        let ratios = ours
            .iter()
            .map(|(name, wall)| format!("{name} {:.2}", theirs.wall.as_secs_f64() / wall.as_secs_f64()));
        let ratios: Vec<String> = ratios.collect();
        print("smtp-source", mails, &theirs, &format!("({how})  ratio: {}", ratios.join(", ")));
    }
    Ok(())
}

/// The mean size of a mail, its attachment in base64, and the rows of the log.
fn stored(store: &str) -> Result<(i64, i64)> {
    let connection = rusqlite::Connection::open(store)?;
    let sizes = "SELECT length(head) + ifnull((length(raw) + 2) / 3 * 4 * 78 / 76 + length(tail), 0) AS size \
                 FROM messages m JOIN deliveries d ON d.id = m.delivery JOIN revisions r ON r.id = d.revision \
                 ORDER BY delivery DESC LIMIT 2000";
    let mean = format!("SELECT CAST(avg(size) AS INTEGER) FROM ({sizes})");
    let octets = connection.query_row(&mean, [], |row| row.get(0))?;
    Ok((octets, connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0))?))
}

/// How long after its file was taken a mail was out, in milliseconds: the median.
fn waited(store: &str) -> Result<i64> {
    let waits =
        "SELECT a.ended_at - d.created_at AS wait FROM attempts a JOIN deliveries d ON d.id = a.delivery";
    let median = format!(
        "SELECT wait FROM ({waits}) ORDER BY wait LIMIT 1 OFFSET (SELECT count(*) / 2 FROM attempts)"
    );
    Ok(rusqlite::Connection::open(store)?.query_row(&median, [], |row| row.get(0))?)
}

fn inbox(folder: &Path, sessions: usize) -> Result<PathBuf> {
    let inbox = folder.join("inbox");
    write_sessions(&inbox, 1, sessions)?;
    Ok(inbox)
}

fn postgres(sessions: usize, rounds: usize) -> Result<()> {
    let (folder, sink) = (site(CONNECTIONS)?, SmtpSink::start()?);
    let inbox = inbox(folder.path(), sessions)?;
    let file = |round| text(folder.path(), &format!("store-{round}.sqlite"));
    let [server, sqlite] = by_turns(rounds, |which, round| {
        let (name, store) = if which == 0 {
            ("on PostgreSQL", cluster::postgres::database())
        } else {
            ("on SQLite", file(round))
        };
        let cost = cost_of(&mut send_all(folder.path(), &inbox, &store, sink.port))?;
        print(name, sessions, &cost, &format!("peak {} MB", cost.peak / 1024));
        Ok(cost)
    })?;
    println!("ratio of PostgreSQL to SQLite: {:.2}", sqlite.as_secs_f64() / server.as_secs_f64());
    let rounds = u32::try_from(rounds)?;
    let (octets, _) = stored(&file(0))?;
    beside_smtp_source(
        sessions,
        octets,
        sink.port,
        &[("PostgreSQL", server / rounds), ("SQLite", sqlite / rounds)],
    )
}

fn durability(sessions: usize, rounds: usize) -> Result<()> {
    let (folder, sink) = (site(CONNECTIONS)?, SmtpSink::start()?);
    let inbox = inbox(folder.path(), sessions)?;
    let syncs = Syncs::compile(folder.path())?;
    let [durable, careless] = by_turns(rounds, |which, round| {
        let store = text(folder.path(), &format!("store-{which}-{round}.sqlite"));
        let mut command = send_all(folder.path(), &inbox, &store, sink.port);
        syncs.watch(&mut command, which == 0);
        let cost = cost_of(&mut command)?;
        let name = if which == 0 { "with every sync" } else { "with none" };
        print(name, sessions, &cost, &format!("{} syncs asked for", syncs.count()?));
        Ok(cost)
    })?;
    println!("ratio of durable to not: {:.2}", careless.as_secs_f64() / durable.as_secs_f64());
    Ok(())
}

/// How long a run to a slow relay lasts at least, so that the start of the program does not count.
const SLOW_SECONDS: usize = 20;

fn relay_delay(milliseconds: usize) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let delay = Duration::from_millis(milliseconds.max(1) as u64);
    let script = Script { delay, forgetful: true, ..Script::default() };
    let sink = runtime.block_on(Sink::start(script))?;
    for connections in [4, 16] {
        let allowed = connections as f64 / delay.as_secs_f64();
        let sessions = SLOW_SECONDS * connections * 1000 / milliseconds.max(1);
        let folder = site(connections)?;
        let inbox = inbox(folder.path(), sessions)?;
        let store = text(folder.path(), "store.sqlite");
        let cost = cost_of(&mut send_all(folder.path(), &inbox, &store, sink.address().port()))?;
        let (octets, _) = stored(&store)?;
        let theirs = smtp_source(sessions, octets, sink.address().port(), connections, true)?;
        let name = format!("{connections} connections, {milliseconds} ms");
        let ratio = |allowed| cost.rate(sessions) / allowed;
        let beside = format!("{allowed:.0} a second if all else took no time  ratio {:.3}", ratio(allowed));
        print(&name, sessions, &cost, &beside);
        let same = theirs.rate(sessions);
        print("smtp-source, the same", sessions, &theirs, &format!("ratio {:.3}", ratio(same)));
    }
    Ok(())
}
