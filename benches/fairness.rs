//! How long a small tenant's sessions take from file to acceptance, alone and beside tenants that are in the way.
//!
//! `cargo bench --bench fairness -- [--flood N] [--alone N]`
//! One tenant floods its relay with N sessions, the relay of another refuses connections, and that of a third takes them
//! and says nothing; each has a folder full of files when `serve` starts. The small tenant gets a file every 200 ms until
//! the flood is over, and alone N files.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

#[path = "support/serving.rs"]
mod serving;
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aftercall::sink::{Script, Sink};
use rusqlite::{Connection, OptionalExtension};
use serving::Serving;
use support::{Result, number, write_sessions, write_tenant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// From one file of the small tenant to the next.
const PACE: Duration = Duration::from_millis(200);
/// How many sessions wait for each of the dead relays.
const WAITING: usize = 2_000;
/// How long the last mails of the small tenant may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let flood = number("--flood", 20_000)?.unwrap_or(20_000);
    let files = number("--alone", 100)?.unwrap_or(100);
    let alone = Site::new()?.measure(|_, sent| Ok(sent < files))?;
    alone.print("alone");
    let (crowded, began) = (Site::new()?, Instant::now());
    let (_taking, _silent) = crowded.crowd(flood)?;
    let beside = crowded.measure(|site, _| Ok(site.attempts("flood")? < flood))?;
    beside.print("beside the others");
    let ratio = |hundredth| percentile(&beside.accepted, hundredth) / percentile(&alone.accepted, hundredth);
    println!(
        "ratio p50 {:.2}, p99 {:.2}; the flood took {:.0} s",
        ratio(50),
        ratio(99),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Milliseconds from each file to what became of it, sorted.
struct Times {
    taken: Vec<f64>,
    accepted: Vec<f64>,
}

impl Times {
    fn print(&self, how: &str) {
        let told =
            |times| format!("p50 {:>5.0} ms, p99 {:>5.0} ms", percentile(times, 50), percentile(times, 99));
        println!(
            "{how:<18} {:>5} sessions  taken {}  accepted {}",
            self.taken.len(),
            told(&self.taken),
            told(&self.accepted)
        );
    }
}

/// Of sorted times; not a number where there is none.
fn percentile(times: &[f64], hundredth: usize) -> f64 {
    times.get((times.len() * hundredth / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// A configuration with the small tenant, whose relay takes everything.
struct Site {
    folder: TempDir,
    store: PathBuf,
    runtime: Runtime,
    _relay: Sink,
}

impl Site {
    fn new() -> Result<Self> {
        let (folder, runtime) = (tempfile::tempdir()?, Runtime::new()?);
        let relay = runtime.block_on(Sink::start(Script { forgetful: true, ..Script::default() }))?;
        let store = folder.path().join("store.sqlite");
        let site = Self { folder, store, runtime, _relay: relay };
        site.tenant("small", site._relay.address().port())?;
        Ok(site)
    }

    fn tenant(&self, name: &str, port: u16) -> Result<()> {
        fs::create_dir_all(self.inbox(name))?;
        let relay = format!("port = {port}\ntls = \"none\"\nconnections = 8\n");
        Ok(write_tenant(self.folder.path(), name, &relay)?)
    }

    fn inbox(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("inbox-{name}"))
    }

    /// Adds the tenants that are in the way; their relays live as long as what is given back.
    fn crowd(&self, flood: usize) -> Result<(Sink, TcpListener)> {
        let taking = self.runtime.block_on(Sink::start(Script { forgetful: true, ..Script::default() }))?;
        let silent = TcpListener::bind(("127.0.0.1", 0))?;
        let refused = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        self.tenant("flood", taking.address().port())?;
        self.tenant("silent", silent.local_addr()?.port())?;
        self.tenant("refused", refused)?;
        write_sessions(&self.inbox("flood"), 1, flood)?;
        write_sessions(&self.inbox("silent"), 1, WAITING)?;
        write_sessions(&self.inbox("refused"), 1, WAITING)?;
        Ok((taking, silent))
    }

    fn database(&self) -> rusqlite::Result<Connection> {
        Connection::open_with_flags(&self.store, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// How many attempts of a tenant have ended, when each session makes one: the other half of its log.
    fn attempts(&self, tenant: &str) -> Result<usize> {
        let sql = "SELECT number FROM chains WHERE tenant = ?";
        let records: Option<usize> =
            self.database()?.query_row(sql, [tenant], |row| row.get(0)).optional()?;
        Ok(records.unwrap_or(0) / 2)
    }

    /// Puts files into the small tenant's folder for as long as `goes_on` says, told how many there were.
    fn measure(&self, goes_on: impl Fn(&Self, usize) -> Result<bool>) -> Result<Times> {
        let mut serve = Serving::start(self.folder.path(), &self.store.to_string_lossy())?;
        while self.database().is_err() || self.attempts("small").is_err() {
            serve.running()?;
            std::thread::park_timeout(PACE);
        }
        let (staging, mut written) = (self.folder.path().join("staging"), Vec::new());
        while goes_on(self, written.len())? {
            serve.running()?;
            write_sessions(&staging, written.len() + 1, 1)?;
            for entry in fs::read_dir(&staging)? {
                let entry = entry?;
                written.push((written.len() + 1, entry.metadata()?.modified()?));
                fs::rename(entry.path(), self.inbox("small").join(entry.file_name()))?;
            }
            std::thread::park_timeout(PACE);
        }
        let since = Instant::now();
        while self.attempts("small")? < written.len() && since.elapsed() < PATIENCE {
            std::thread::park_timeout(PACE);
        }
        self.times(&written)
    }

    fn times(&self, written: &[(usize, SystemTime)]) -> Result<Times> {
        let database = self.database()?;
        let mut moments = database.prepare(
            "SELECT r.accepted_at, a.ended_at FROM sessions s JOIN revisions r ON r.session = s.id \
             JOIN deliveries d ON d.session = s.id JOIN attempts a ON a.delivery = d.id \
             WHERE s.tenant = 'small' AND s.number = ? AND a.outcome = 'accepted'",
        )?;
        let (mut taken, mut accepted) = (Vec::new(), Vec::new());
        for (number, file) in written {
            let file = file.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
            let (first, last) =
                moments.query_row([number], |row| Ok((row.get::<_, f64>(0)?, row.get::<_, f64>(1)?)))?;
            taken.push(first - file);
            accepted.push(last - file);
        }
        taken.sort_unstable_by(f64::total_cmp);
        accepted.sort_unstable_by(f64::total_cmp);
        Ok(Times { taken, accepted })
    }
}
