//! From a file's bytes to a stored revision with its delivery.
//!
//! Reading, planning, rendering and composing see no store; the store then takes the whole result in one
//! transaction, or says that more is known, and the planning is done again with that.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::desk::Desk;
use super::make::Making;
use crate::crash;
use crate::ids::{DeliveryId, Digest, SessionKey};
use crate::plan::{History, Plan, Timing, plan};
use crate::session::{Fault, Reading, read};
use crate::store::{Acceptance, Accepted, Planned, Quarantined, Store, StoreError};

/// The way to the threads that make mails, one for each processor: a flood of files waits there, and wakes no thread for
/// each.
static WORKERS: LazyLock<mpsc::Sender<Box<dyn FnOnce() + Send>>> = LazyLock::new(|| {
    let (give, queue) = mpsc::channel();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok(work) = next() {
                // Whoever waits for it learns of a panic from the answer that does not come.
                drop(catch_unwind(AssertUnwindSafe(work)));
            }
        });
    }
    give
});

/// A file as it came.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its name without folders, which may tell the kind.
    pub name: String,
    /// Where it came from, for people.
    pub source: String,
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
}

/// What is to be taken.
#[derive(Debug)]
pub enum Input {
    /// A file that was read.
    Document(Document),
    /// One that is to be read.
    File(PathBuf),
}

impl Input {
    /// Its name, for people.
    fn name(&self) -> String {
        match self {
            Self::Document(document) => document.source.clone(),
            Self::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// A session, stored now, with its delivery if one was planned.
    Stored(SessionKey, Option<DeliveryId>),
    /// A session whose bytes were stored before.
    Known(SessionKey, Option<DeliveryId>),
    /// Something else that belongs beside sessions.
    Other(&'static str),
    /// Not a session; kept in quarantine.
    Quarantined(Fault),
    /// It ends too early and may still be being written; nothing is stored.
    Incomplete(Fault),
}

/// Why a file could not be taken; it is still where it was.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The work ended in a fault of this program.
    #[error("the file {0} could not be worked on")]
    Worker(String),
}

/// Takes one file. With `patient`, a file that ends too early is left for later instead of quarantined.
pub async fn take(
    desk: &Desk,
    store: &Store,
    file: Input,
    timing: Timing,
    patient: bool,
) -> Result<Taken, IntakeError> {
    let (mut file, mut known) = (file, (History::default(), None));
    loop {
        let (history, followed) = known;
        let work = Work { desk: desk.clone(), history, followed, timing };
        let (document, step) = on_worker(file.name(), move || work.pass(file)).await??;
        known = match step {
            Ok(Step::Accept(accepted)) => {
                let key = accepted.key.clone();
                crash::reached(crash::Step::Composed);
                match store.accept(*accepted).await? {
                    Acceptance::Stored(delivery) => {
                        let delivered = delivery.map(|id| id.0);
                        info!(tenant = key.tenant, session = %key.name, delivery = delivered, "accepted a revision");
                        return Ok(Taken::Stored(key, delivery));
                    }
                    Acceptance::Duplicate(delivery) => return Ok(Taken::Known(key, delivery)),
                    Acceptance::OutOfDate(newer) => (newer, None),
                }
            }
            Ok(Step::Compare { key, with, history }) => {
                (history, store.revision(key, with).await?.map(|raw| (with, raw)))
            }
            Ok(Step::Other(what)) => return Ok(Taken::Other(what)),
            Err(fault) if fault.incomplete && patient => return Ok(Taken::Incomplete(fault)),
            Err(fault) => return quarantine(desk, store, &document, fault).await,
        };
        file = Input::Document(document);
    }
}

/// Reads a file, at most one octet more than `limit`, so that a huge one is refused and not held.
pub fn read_document(path: &Path, limit: usize) -> std::io::Result<Document> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    let most = limit as u64 + 1;
    // Room for the whole file and one octet more, so that two reads do.
    let room = usize::try_from(file.metadata()?.len().min(most)).unwrap_or(limit) + 1;
    let mut bytes = Vec::with_capacity(room);
    file.take(most).read_to_end(&mut bytes)?;
    crash::reached(crash::Step::FileRead);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Document { name, source: path.to_string_lossy().into_owned(), bytes: bytes.into() })
}

/// Runs work off the asynchronous threads: there it would keep answers of relays from being read. A panic in it
/// is contained and told.
async fn on_worker<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IntakeError> {
    let (answer, answered) = oneshot::channel();
    // It is refused only when all threads are gone, and then there is no answer.
    drop(WORKERS.send(Box::new(move || drop(answer.send(work())))));
    answered.await.map_err(|_| IntakeError::Worker(name))
}

async fn quarantine(
    desk: &Desk,
    store: &Store,
    document: &Document,
    fault: Fault,
) -> Result<Taken, IntakeError> {
    let tenant = desk.tenant.name.clone();
    let mut raw = document.bytes.to_vec();
    raw.truncate(desk.session_bytes);
    let (source, reason) = (document.source.clone(), fault.to_string());
    let quarantined = Quarantined { tenant: tenant.clone(), source, reason, raw, now: desk.clock.now() };
    if store.quarantine(quarantined).await? {
        warn!(tenant, source = document.source, reason = %fault, "quarantined a file that is not a session");
    }
    Ok(Taken::Quarantined(fault))
}

/// One pass over a file with what is known so far.
struct Work {
    desk: Desk,
    history: History,
    /// The revision that a follow-up is compared with, once it is fetched.
    followed: Option<(Digest, Vec<u8>)>,
    timing: Timing,
}

/// What a pass came to.
enum Step {
    /// Everything is decided.
    Accept(Box<Accepted>),
    /// This revision is needed to tell what has changed.
    Compare { key: SessionKey, with: Digest, history: History },
    /// Not a session, and not meant to be one.
    Other(&'static str),
}

impl Work {
    /// The file, read now where it was not before, and what is next.
    fn pass(self, file: Input) -> Result<(Document, Result<Step, Fault>), IntakeError> {
        let document = match file {
            Input::Document(document) => document,
            Input::File(path) => read_document(&path, self.desk.session_bytes)
                .map_err(|source| IntakeError::Unreadable { path, source })?,
        };
        let step = self.step(&document);
        Ok((document, step))
    }

    fn step(self, document: &Document) -> Result<Step, Fault> {
        let Document { name, bytes, source } = document;
        let session = match read(bytes, name, self.desk.session_bytes)? {
            Reading::Session(session) => *session,
            Reading::Other(what) => return Ok(Step::Other(what)),
        };
        crash::reached(crash::Step::SessionRead);
        let tenant = &self.desk.tenant;
        let key =
            SessionKey { tenant: tenant.name.clone(), instance: tenant.instance.clone(), name: session.name };
        let (digest, now) = (Digest::of(bytes), self.desk.clock.now());
        let (updated_at, mut ticket) = (session.updated_at, session.ticket.clone());
        ticket.id = ticket.id.or_else(|| self.history.ticket.clone());
        let (planned, supersedes) =
            match plan(&session, &digest, tenant, tenant.channel, &self.history, self.timing, now) {
                Plan::Keep(why) => (Planned::Nothing(why), vec![]),
                Plan::Hold { reason, supersedes } => (Planned::Hold(reason), supersedes),
                Plan::Send(mail) => {
                    let fetched = self.followed.as_ref().map(|(digest, _)| *digest);
                    if let Some(with) = mail.follows.filter(|with| fetched != Some(*with)) {
                        return Ok(Step::Compare { key, with, history: self.history });
                    }
                    let followed = self.followed.as_ref().map(|(_, raw)| &raw[..]);
                    let making = Making {
                        desk: &self.desk,
                        key: &key,
                        raw: bytes,
                        digest: &digest,
                        followed,
                        is_smaller: false,
                    };
                    (making.planned(session, &mail), mail.supersedes)
                }
            };
        Ok(Step::Accept(Box::new(Accepted {
            key,
            updated_at,
            digest,
            raw: Arc::clone(bytes),
            source: source.clone(),
            ticket,
            revisions: self.history.revisions,
            channel: tenant.channel,
            fallback: tenant.fallback.filter(|_| planned.channel() == Some(tenant.channel)),
            planned,
            supersedes,
            now,
        })))
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
