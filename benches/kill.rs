//! Kills `aftercall serve` at random moments while it takes and sends sessions, and counts what arrived.
//!
//! `cargo bench --bench kill -- [--kills N] [--sessions N] [--seed N]`
//! Every session's mail must arrive; one that arrives twice must have an attempt that the log calls uncertain,
//! and its bytes must be the same both times.

#![expect(clippy::print_stdout, reason = "a measurement prints its figures")]

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aftercall::sink::{Received, Script, Sink};
use support::{write_config, write_sessions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: u64| {
        let given = arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
        given.map_or(Ok(default), |text| text.parse())
    };
    let (kills, sessions) = (value("--kills", 200)?, usize::try_from(value("--sessions", 2_000)?)?);
    let mut dice = Dice(value("--seed", 20_261_122)?.max(1));
    let runtime = tokio::runtime::Runtime::new()?;
    let sink =
        runtime.block_on(Sink::start(Script { delay: Duration::from_millis(50), ..Script::default() }))?;
    let folder = tempfile::tempdir()?;
    let relay = format!("port = {}\ntls = \"none\"\nconnections = 8\n", sink.address().port());
    write_config(&folder.path().join("config"), &relay)?;
    let tenant = folder.path().join("config/tenants/bench.toml");
    let settings =
        "settle = \"none\"\nfolder = \"../inbox\"\n".to_owned() + &std::fs::read_to_string(&tenant)?;
    std::fs::write(&tenant, settings)?;
    write_sessions(&folder.path().join("inbox"), 1, sessions)?;
    for _ in 0..kills {
        let mut serve = serve(folder.path())?;
        std::thread::park_timeout(Duration::from_millis(60 + dice.roll(260)));
        serve.kill()?;
        serve.wait()?;
    }
    let killed_at = sink.received().len();
    finish(folder.path())?;
    let verdict = count(&sink.received(), sessions, folder.path())?;
    println!("{kills} kills, {killed_at} mails read by the server before the last of them; {verdict}");
    if verdict.is_sound() { Ok(()) } else { Err("mail was lost, or doubled without a mark".into()) }
}

/// Marsaglia's xorshift: the same seed gives the same moments.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn aftercall(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aftercall"));
    command.arg("--config").arg(folder.join("config")).arg("--log").arg("error");
    command
}

fn serve(folder: &Path) -> Result<Child> {
    Ok(aftercall(folder).arg("serve").stdout(Stdio::null()).spawn()?)
}

/// Takes what no life of `serve` came to, and sends until everything is settled.
fn finish(folder: &Path) -> Result<()> {
    let inbox = folder.join("inbox");
    let status = aftercall(folder).arg("send").arg("--all").arg(inbox).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("send ended with {status}").into()) }
}

/// What arrived, against what should have.
struct Verdict {
    sessions: usize,
    arrived: usize,
    doubled: usize,
    unmarked: usize,
    altered: usize,
    uncertain: i64,
}

impl Verdict {
    fn is_sound(&self) -> bool {
        self.arrived == self.sessions && self.unmarked == 0 && self.altered == 0
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sessions, arrived, doubled, unmarked, altered, uncertain } = self;
        write!(
            f,
            "{arrived} of {sessions} sessions arrived, {} lost, {doubled} more than once, of these {unmarked} without \
             an uncertain attempt in the log and {altered} with other bytes; {uncertain} attempts uncertain",
            sessions - arrived
        )
    }
}

fn count(received: &[Received], sessions: usize, folder: &Path) -> Result<Verdict> {
    let store = rusqlite::Connection::open(folder.join("config/aftercall.sqlite"))?;
    let mut copies: HashMap<String, Vec<&Received>> = HashMap::new();
    for mail in received {
        let text = String::from_utf8_lossy(&mail.message);
        let id = text.split("Message-ID: <").nth(1).and_then(|rest| rest.split('>').next());
        copies.entry(id.ok_or("a mail has no Message-ID")?.to_owned()).or_default().push(mail);
    }
    let mut marked = store.prepare(
        "SELECT count(*) FROM attempts a JOIN deliveries d ON d.id = a.delivery \
         WHERE d.message_id = ? AND a.outcome = 'uncertain'",
    )?;
    let (mut doubled, mut unmarked, mut altered) = (0, 0, 0);
    for (id, copies) in copies.iter().filter(|(_, copies)| copies.len() > 1) {
        doubled += 1;
        unmarked += usize::from(marked.query_row([id], |row| row.get::<_, i64>(0))? == 0);
        altered += usize::from(copies.iter().any(|copy| copy.message != copies[0].message));
    }
    let uncertain =
        store.query_row("SELECT count(*) FROM attempts WHERE outcome = 'uncertain'", [], |row| row.get(0))?;
    Ok(Verdict { sessions, arrived: copies.len(), doubled, unmarked, altered, uncertain })
}
