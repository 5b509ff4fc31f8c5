//! `aftercall send`: take files, send, say what came of each.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Exit, Misuse, open_store, preview, tenant};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::record::Record;
use crate::config::tenant::{Channel, Tenant};
use crate::config::webhook::Webhook;
use crate::flow::desk::Desk;
use crate::flow::dispatch::{Dispatcher, Wake};
use crate::flow::gate::{Gates, gates};
use crate::flow::intake::{Document, Input, Taken, chain, read_document, take};
use crate::flow::presence::Presence;
use crate::flow::watch::{Seen, session_files, take_files};
use crate::ids::DeliveryId;
use crate::outbox::State;
use crate::plan::Timing;
use crate::store::{DeliveryRow, Filter, Message, ProcessLock, Store, StoreError};

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
    let sending = Sending::start(&desk, &store).await?;
    loop {
        let rows = deliveries(&store, &tally.deliveries)?;
        let now = Clock::default().now();
        let goes_on = |row: &DeliveryRow| {
            is_under_way(row, before.get(&row.id), now) && !sending.is_closed(tenant, row.channel)
                || row.state.is_lost() && row.fallback.is_some() && tenant.fallback.is_some()
        };
        if !rows.iter().any(goes_on) || store.is_paused(tenant.name.clone()).await? {
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
    let tenant = &desk.tenant.name;
    let told_after = Some((tenant.clone(), store.last_record(tenant)?));
    let sending = Sending::start(desk, store).await?;
    let mut tally = Tally::default();
    let told = |file: Seen, result| match result {
        Ok(taken) => tally.count(&file.path.to_string_lossy(), &taken),
        Err(error) => tally.fail(&chain(&error)),
    };
    let files = session_files(folder, |_| true);
    let taking = take_files(desk, store, files, Timing::Now, |_| false, told);
    sending.while_taking(taking).await;
    let mut is_paused = false;
    let falls_back = desk.tenant.fallback.is_some();
    while !is_paused && !store.is_idle(tenant.clone(), falls_back).await? {
        sending.pause().await?;
        is_paused = store.is_paused(tenant.clone()).await?;
    }
    sending.end().await?;
    let since = Filter { told_after, ..Filter::default() };
    let (mut by_state, rows) = (BTreeMap::new(), store.deliveries(&since)?);
    for row in &rows {
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
    Ok(if any_lost(&rows) || tally.not_taken > 0 {
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
                let taken = take(desk, store, Input::Document(document), Timing::Now, false).await?;
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
    gates: Gates,
    stop: watch::Sender<bool>,
    wake: Wake,
}

struct Ours {
    tasks: Vec<JoinHandle<Result<(), StoreError>>>,
    presence: Presence,
    lock: ProcessLock,
}

impl Sending {
    pub(super) async fn start(desk: &Desk, store: &Store) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (tenant, wake) = (&*desk.tenant, Wake::default());
        let gates = gates(&[tenant], &BTreeMap::new());
        let Some(lock) = store.lock_delivery(&tenant.name)? else {
            return Ok(Self { ours: None, gates, stop, wake });
        };
        let presence = Presence::begin(store, &[tenant], &desk.clock).await?;
        let dispatchers = Dispatcher::of_tenant(desk, store, presence.instance, &gates, &wake, &stopped)?;
        let tasks = dispatchers.into_iter().map(|dispatcher| tokio::spawn(dispatcher.run())).collect();
        Ok(Self { ours: Some(Ours { tasks, presence, lock }), gates, stop, wake })
    }

    /// Whether the way of a channel is closed: what is due on it waits.
    fn is_closed(&self, tenant: &Tenant, channel: Channel) -> bool {
        let place = match channel {
            Channel::Email => Some(tenant.relay.place()),
            Channel::Record => tenant.record.as_ref().map(Record::place),
            Channel::Webhook => tenant.reactions.webhook.as_ref().map(Webhook::place),
        };
        let Some(place) = place else { return true };
        self.gates.get(&place).is_some_and(|gate| gate.is_closed())
    }

    /// Lets the sender look for work while files are being taken.
    async fn while_taking(&self, taking: impl Future<Output = ()>) {
        let mut taking = std::pin::pin!(taking);
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                () = &mut taking => return self.wake.tell(),
                _ = tick.tick() => self.wake.tell(),
            }
        }
    }

    /// A moment before the next look; an error when the sender has failed.
    async fn pause(&self) -> anyhow::Result<()> {
        if self.ours.as_ref().is_some_and(|ours| ours.tasks.iter().any(JoinHandle::is_finished)) {
            anyhow::bail!("sending ended early; the reason is in the log");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        if let Some(Ours { tasks, presence, lock }) = self.ours {
            for task in tasks {
                task.await??;
            }
            presence.end().await?;
            drop(lock);
        }
        Ok(())
    }
}

/// These deliveries, and those that took their place.
fn deliveries(store: &Store, ids: &[DeliveryId]) -> Result<Vec<DeliveryRow>, StoreError> {
    if ids.is_empty() {
        Ok(Vec::new())
    } else {
        let mut rows = store.deliveries(&Filter { ids: ids.to_vec(), ..Filter::default() })?;
        rows.extend(store.deliveries(&Filter { instead_of: ids.to_vec(), ..Filter::default() })?);
        Ok(rows)
    }
}

/// Whether an attempt is running or due: one attempt each, then the outbox goes on with later ones. `before` is how
/// many attempts there were when the command began; one that takes another's place is new.
fn is_under_way(row: &DeliveryRow, before: Option<&u32>, now: Timestamp) -> bool {
    let is_due = row.due.is_some_and(|due| due <= now) && *before.unwrap_or(&0) == row.attempts;
    is_due || matches!(row.state, State::Leased | State::Sending)
}

fn report(rows: &[DeliveryRow], not_taken: usize) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    for row in rows {
        let to = row.recipient.as_deref().unwrap_or("nobody");
        writeln!(out, "{}: delivery {} to {to}: {} ({})", row.session, row.id, row.state, row.reason)?;
    }
    let waits = rows.iter().any(|row| row.due.is_some());
    Ok(if any_lost(rows) || not_taken > 0 {
        Exit::Failed
    } else if waits {
        Exit::TryAgain
    } else {
        Exit::Done
    })
}

/// Whether one was given up and no other took its place.
fn any_lost(rows: &[DeliveryRow]) -> bool {
    let is_replaced = |id| rows.iter().any(|row| row.instead_of == Some(id));
    rows.iter().any(|row| row.state.is_lost() && !is_replaced(row.id))
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
            (Ok((_, message)), Some(folder)) => {
                std::fs::create_dir_all(folder)?;
                let name = Path::new(&document.name).file_stem().unwrap_or("stdin".as_ref()).to_owned();
                let (ending, bytes) = octets(&message);
                let file = folder.join(name).with_added_extension(ending);
                std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
                writeln!(io::stdout(), "{}", file.display())?;
            }
            (Ok((_, message)), None) => io::stdout().write_all(&octets(&message).1)?,
            (Err(error), _) => {
                writeln!(io::stderr(), "{}: {error:#}", document.source)?;
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// A message as it would be sent, and the ending of its file: a mail, or the note for a CRM as the store keeps it.
fn octets(message: &Message) -> (&'static str, Cow<'_, [u8]>) {
    match message {
        Message::Mail(mail) => ("eml", Cow::Borrowed(&mail.wire)),
        Message::Note(note) => ("note.json", Cow::Owned(note.to_bytes())),
    }
}
