//! `aftercall send`: take files, send, say what came of each.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use super::{Exit, Misuse, open_store, preview, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::tenant::Tenant;
use crate::deliver::auth::tokens;
use crate::deliver::tls::connector;
use crate::flow::desk::Desk;
use crate::flow::dispatch::Dispatcher;
use crate::flow::gate::Gate;
use crate::flow::intake::{Document, Taken, chain, take};
use crate::flow::presence::Presence;
use crate::flow::watch::{Seen, read_document, session_files, take_files};
use crate::ids::DeliveryId;
use crate::outbox::State;
use crate::plan::Timing;
use crate::store::{DeliveryRow, Filter, ProcessLock, Store, StoreError};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Session files; - or none for standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose sessions they are. May be left out where there is only one tenant.
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// Take every session file below this folder, and retry until each delivery is settled.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["files", "dry_run"])]
    all: Option<PathBuf>,
    /// Write the mails instead of sending them; nothing is stored.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: the folder to write .eml files to, in place of standard output.
    #[arg(long, value_name = "DIR", requires = "dry_run")]
    out: Option<PathBuf>,
}

/// What came of the files, before anything was sent.
#[derive(Debug, Default)]
struct Tally {
    deliveries: Vec<DeliveryId>,
    sessions: usize,
    not_taken: usize,
}

pub(super) async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<Exit> {
    let tenant = tenant(config, arguments.tenant.as_deref())?;
    if arguments.dry_run {
        return dry_run(config, tenant, &arguments).await;
    }
    let store = open_store(config)?;
    let desk = Desk::open(config, tenant, Some(&store), Clock::default()).await?;
    if let Some(folder) = &arguments.all {
        return send_all(&desk, &store, folder).await;
    }
    let tally = take_each(&desk, &store, &arguments.files).await?;
    // A delivery of an earlier run has attempts behind it; each gets one more.
    let before: BTreeMap<DeliveryId, u32> =
        deliveries(&store, &tally.deliveries)?.into_iter().map(|row| (row.id, row.attempts)).collect();
    let sending = Sending::start(tenant, &store).await?;
    loop {
        let rows = deliveries(&store, &tally.deliveries)?;
        let now = Clock::default().now();
        let is_over = !rows.iter().any(|row| is_under_way(row, before.get(&row.id), now));
        if is_over || sending.gate.is_closed() || store.is_paused(tenant.name.clone()).await? {
            sending.end().await?;
            return report(&deliveries(&store, &tally.deliveries)?, tally.not_taken);
        }
        sending.pause().await?;
    }
}

/// Takes a whole folder and sends until everything of the tenant is settled.
pub(super) async fn send_all(desk: &Desk, store: &Store, folder: &Path) -> anyhow::Result<Exit> {
    if !folder.is_dir() {
        return Err(Misuse(format!("{} is not a folder", folder.display())).into());
    }
    let sending = Sending::start(&desk.tenant, store).await?;
    let mut tally = Tally::default();
    let started = Clock::default().now();
    let told = |file: Seen, result| match result {
        Ok(taken) => tally.count(&file.path.to_string_lossy(), &taken),
        Err(error) => tally.fail(&chain(&error)),
    };
    let files = session_files(folder, |_| true);
    let taking = take_files(desk, store, files, Timing::Now, |_| false, told);
    sending.while_taking(taking).await;
    let mut is_paused = false;
    while !is_paused && !store.is_idle(desk.tenant.name.clone()).await? {
        sending.pause().await?;
        is_paused = store.is_paused(desk.tenant.name.clone()).await?;
    }
    sending.end().await?;
    let since = Filter { tenant: Some(desk.tenant.name.clone()), since: Some(started), ..Filter::default() };
    let mut by_state = BTreeMap::new();
    for row in store.deliveries(&since)? {
        *by_state.entry(row.state.as_str()).or_insert(0_usize) += 1;
    }
    let counts: Vec<String> = by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    writeln!(
        io::stdout(),
        "{} sessions taken, {} files not; deliveries: {}",
        tally.sessions,
        tally.not_taken,
        counts.join(", ")
    )?;
    let lost =
        by_state.contains_key(State::Rejected.as_str()) || by_state.contains_key(State::Expired.as_str());
    Ok(if lost || tally.not_taken > 0 {
        Exit::Failed
    } else if is_paused {
        Exit::TryAgain
    } else {
        Exit::Done
    })
}

async fn take_each(desk: &Desk, store: &Store, files: &[PathBuf]) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for document in documents(files, desk.session_bytes) {
        match document {
            Ok(document) => {
                let name = document.source.clone();
                let taken = take(desk, store, document, Timing::Now, false).await?;
                tally.count(&name, &taken);
            }
            Err(error) => tally.fail(&format!("{error:#}")),
        }
    }
    Ok(tally)
}

/// The files, or standard input.
fn documents(files: &[PathBuf], limit: usize) -> impl Iterator<Item = anyhow::Result<Document>> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { stdin.to_vec() } else { files.to_vec() };
    files.into_iter().map(move |file| {
        if file.as_os_str() == "-" {
            let mut bytes = Vec::new();
            io::stdin()
                .take(limit as u64 + 1)
                .read_to_end(&mut bytes)
                .context("cannot read standard input")?;
            return Ok(Document {
                name: String::new(),
                source: "standard input".to_owned(),
                bytes: bytes.into(),
            });
        }
        read_document(&file, limit).with_context(|| format!("cannot read {}", file.display()))
    })
}

impl Tally {
    fn count(&mut self, source: &str, taken: &Taken) {
        match taken {
            Taken::Stored(_, delivery) | Taken::Known(_, delivery) => {
                self.sessions += 1;
                self.deliveries.extend(*delivery);
            }
            Taken::Other(what) => drop(writeln!(io::stderr(), "{source}: skipped, this is {what}")),
            Taken::Quarantined(fault) | Taken::Incomplete(fault) => {
                self.fail(&format!("{source}: {fault}; kept in quarantine"));
            }
        }
    }

    fn fail(&mut self, why: &str) {
        self.not_taken += 1;
        drop(writeln!(io::stderr(), "{why}"));
    }
}

/// The sending that goes on beside a command: ours, or that of a `serve` on the same store.
pub(super) struct Sending {
    ours: Option<Ours>,
    gate: Arc<Gate>,
    stop: watch::Sender<bool>,
    wake: Arc<Notify>,
}

struct Ours {
    task: JoinHandle<Result<(), StoreError>>,
    presence: Presence,
    lock: ProcessLock,
}

impl Sending {
    pub(super) async fn start(tenant: &Tenant, store: &Store) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let wake = Arc::new(Notify::new());
        let gate = Arc::new(Gate::new(tenant.relay.place(), Semaphore::MAX_PERMITS));
        let Some(lock) = store.lock_delivery(&tenant.name)? else {
            return Ok(Self { ours: None, gate, stop, wake });
        };
        let clock = Clock::default();
        let presence = Presence::begin(store, &[tenant], &clock).await?;
        let dispatcher = Dispatcher {
            tenant: Arc::new(tenant.clone()),
            store: store.clone(),
            instance: presence.instance,
            wake: Arc::clone(&wake),
            gate: Arc::clone(&gate),
            clock: clock.clone(),
            tls: connector(tenant.relay.ca_file.as_deref())?,
            tokens: tokens(&tenant.relay, clock)?,
            stop: stopped,
        };
        let task = tokio::spawn(dispatcher.run());
        Ok(Self { ours: Some(Ours { task, presence, lock }), gate, stop, wake })
    }

    /// Lets the sender look for work while files are being taken.
    async fn while_taking(&self, taking: impl Future<Output = ()>) {
        let mut taking = std::pin::pin!(taking);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                () = &mut taking => return self.wake.notify_one(),
                _ = tick.tick() => self.wake.notify_one(),
            }
        }
    }

    /// A moment before the next look; an error when the sender has failed.
    async fn pause(&self) -> anyhow::Result<()> {
        if self.ours.as_ref().is_some_and(|ours| ours.task.is_finished()) {
            anyhow::bail!("sending ended early; the reason is in the log");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        if let Some(Ours { task, presence, lock }) = self.ours {
            task.await??;
            presence.end().await?;
            drop(lock);
        }
        Ok(())
    }
}

fn deliveries(store: &Store, ids: &[DeliveryId]) -> Result<Vec<DeliveryRow>, StoreError> {
    if ids.is_empty() {
        Ok(Vec::new())
    } else {
        store.deliveries(&Filter { ids: ids.to_vec(), ..Filter::default() })
    }
}

/// Whether an attempt is running or due: one attempt each, then the outbox goes on with later ones. `before` is how
/// many attempts there were when the command began.
fn is_under_way(row: &DeliveryRow, before: Option<&u32>, now: Timestamp) -> bool {
    let is_due = row.due.is_some_and(|due| due <= now) && before == Some(&row.attempts);
    is_due || matches!(row.state, State::Leased | State::Sending)
}

fn report(rows: &[DeliveryRow], not_taken: usize) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    for row in rows {
        let to = row.recipient.as_deref().unwrap_or("nobody");
        writeln!(out, "{}: delivery {} to {to}: {} ({})", row.session, row.id, row.state, row.reason)?;
    }
    let lost = rows.iter().any(|row| row.state.is_lost());
    let waits = rows.iter().any(|row| row.due.is_some());
    Ok(if lost || not_taken > 0 {
        Exit::Failed
    } else if waits {
        Exit::TryAgain
    } else {
        Exit::Done
    })
}

/// Writes the mails as they would go out.
async fn dry_run(config: &Config, tenant: &Tenant, arguments: &Arguments) -> anyhow::Result<Exit> {
    let desk = Desk::open(config, tenant, None, Clock::default()).await?;
    let mut exit = Exit::Done;
    for document in documents(&arguments.files, desk.session_bytes) {
        let document = document?;
        let written =
            preview::session(&desk, &document).and_then(|session| preview::draft(&desk, session, &document));
        match (written, &arguments.out) {
            (Ok((_, composed)), Some(folder)) => {
                std::fs::create_dir_all(folder)?;
                let name = Path::new(&document.name).file_stem().unwrap_or("stdin".as_ref()).to_owned();
                let file = folder.join(name).with_added_extension("eml");
                std::fs::write(&file, &composed.wire)
                    .with_context(|| format!("cannot write {}", file.display()))?;
                writeln!(io::stdout(), "{}", file.display())?;
            }
            (Ok((_, composed)), None) => io::stdout().write_all(&composed.wire)?,
            (Err(error), _) => {
                writeln!(io::stderr(), "{}: {error:#}", document.source)?;
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}
