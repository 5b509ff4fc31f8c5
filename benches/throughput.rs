//! Sessions per second, from file to logged acceptance, beside Postfix's `smtp-source` into the same `smtp-sink`.
//!
//! `cargo bench --bench throughput -- [--sessions N] [--growth]`
//! needs `smtp-source` and `smtp-sink` (Debian package postfix; no service is started).
//! With `--growth`, one store takes ten such runs, and the cost of the last is set against that of the first.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

mod support;

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use support::{write_config, write_sessions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Connections of both programs.
const CONNECTIONS: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let sessions: usize = value("--sessions").map_or(Ok(20_000), |text| text.parse())?;
    let rounds = if arguments.iter().any(|a| a == "--growth") { 10 } else { 1 };
    let folder = tempfile::tempdir()?;
    write_config(&folder.path().join("config"), &format!("connections = {CONNECTIONS}\n"))?;
    let port = free_port()?;
    let sink = Sink::start(port)?;
    for round in 0..rounds {
        let inbox = folder.path().join(format!("inbox-{round}"));
        write_sessions(&inbox, 1 + round * sessions, sessions)?;
        let cost = ours(folder.path(), &inbox, port)?;
        let (octets, rows) = stored(&folder.path().join("store.sqlite"))?;
        println!(
            "aftercall    {:>7.0} sessions/s  {:.3} CPU s per 1,000  peak {} MB  {rows} log rows  {octets} octets a mail",
            per_second(sessions, cost.wall),
            cost.cpu.as_secs_f64() * 1000.0 / sessions as f64,
            cost.peak / 1024,
        );
        if round + 1 == rounds {
            for keep in [true, false] {
                let theirs = smtp_source(sessions, octets, port, keep)?;
                println!(
                    "smtp-source  {:>7.0} mails/s     {:.3} CPU s per 1,000  ({})  ratio {:.2}",
                    per_second(sessions, theirs.wall),
                    theirs.cpu.as_secs_f64() * 1000.0 / sessions as f64,
                    if keep { "connections kept" } else { "a connection each" },
                    theirs.wall.as_secs_f64() / cost.wall.as_secs_f64(),
                );
            }
        }
    }
    drop(sink);
    Ok(())
}

fn per_second(count: usize, wall: Duration) -> f64 {
    count as f64 / wall.as_secs_f64()
}

fn ours(folder: &Path, inbox: &Path, port: u16) -> Result<Cost> {
    let child = Command::new(env!("CARGO_BIN_EXE_aftercall"))
        .args(["send", "--tenant", "bench", "--config"])
        .arg(folder.join("config"))
        .arg("--store")
        .arg(folder.join("store.sqlite"))
        .arg("--relay")
        .arg(format!("smtp://127.0.0.1:{port}"))
        .arg("--all")
        .arg(inbox)
        .stdout(Stdio::null())
        .spawn()?;
    let cost = cost_of(child)?;
    if cost.status.success() { Ok(cost) } else { Err(format!("aftercall ended with {}", cost.status).into()) }
}

fn smtp_source(mails: usize, octets: i64, port: u16, keep: bool) -> Result<Cost> {
    let mut command = Command::new("/usr/sbin/smtp-source");
    if keep {
        command.arg("-d");
    }
    let child = command
        .args(["-s", &CONNECTIONS.to_string(), "-m", &mails.to_string(), "-l", &octets.to_string()])
        .args(["-f", "bridge@example.com", "-t", "crm@example.com", &format!("127.0.0.1:{port}")])
        .spawn()?;
    let cost = cost_of(child)?;
    if cost.status.success() {
        Ok(cost)
    } else {
        Err(format!("smtp-source ended with {}", cost.status).into())
    }
}

/// The mean size of a mail, and the rows of the log.
fn stored(store: &Path) -> Result<(i64, i64)> {
    let connection = rusqlite::Connection::open(store)?;
    let octets = connection.query_row("SELECT CAST(avg(length(head) + length(tail)) AS INTEGER) FROM (SELECT head, tail FROM messages ORDER BY delivery DESC LIMIT 2000)", [], |row| row.get(0))?;
    Ok((octets, connection.query_row("SELECT count(*) FROM log", [], |row| row.get(0))?))
}

struct Sink(Child);

impl Sink {
    fn start(port: u16) -> Result<Self> {
        // It wants to run as somebody else only when it is started by root.
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?) == 0;
        let user: &[&str] = if is_root { &["-u", "nobody"] } else { &[] };
        let mut command = Command::new("/usr/sbin/smtp-sink");
        let mut child = command.args(user).args([&format!("127.0.0.1:{port}"), "1000"]).spawn()?;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("smtp-sink ended with {status}").into());
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(Self(child))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What a finished child process cost.
struct Cost {
    /// How it ended.
    status: ExitStatus,
    /// From start to end.
    wall: Duration,
    /// User and system time, to a hundredth of a second.
    cpu: Duration,
    /// The largest resident set in kilobytes.
    peak: u64,
}

/// Waits for a child and says what it cost. No other child may end meanwhile.
fn cost_of(mut child: Child) -> std::io::Result<Cost> {
    let (began, before) = (Instant::now(), children_ticks()?);
    let mut peak = 0;
    loop {
        peak = peak.max(resident_peak(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            let cpu = Duration::from_millis((children_ticks()? - before) * 10);
            return Ok(Cost { status, wall: began.elapsed(), cpu, peak });
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// proc(5): cutime and cstime of this process, in ticks of a hundredth of a second.
fn children_ticks() -> std::io::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok([13, 14].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum())
}

/// proc(5): VmHWM in kilobytes.
fn resident_peak(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A free TCP port of 127.0.0.1.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
