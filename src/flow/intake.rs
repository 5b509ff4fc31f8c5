//! From a file's bytes to a stored revision with its delivery.
//!
//! Reading, planning, rendering and composing see no store; the store then takes the whole result in one
//! transaction, or says that more is known, and the planning is done again with that.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
    /// The work ended in a fault of this program.
    #[error("the file {0} could not be worked on")]
    Worker(String),
}

/// Takes one file. With `patient`, a file that ends too early is left for later instead of quarantined.
pub async fn take(
    desk: &Desk,
    store: &Store,
    document: Document,
    timing: Timing,
    patient: bool,
) -> Result<Taken, IntakeError> {
    let document = Arc::new(document);
    let (mut history, mut followed) = (History::default(), None);
    loop {
        let work = Work { desk: desk.clone(), document: Arc::clone(&document), history, followed, timing };
        let step = on_worker(&document.name, move || work.step()).await?;
        let accepted = match step {
            Ok(Step::Accept(accepted)) => accepted,
            Ok(Step::Compare { key, with, history: known }) => {
                followed = store.revision(key, with).await?.map(|raw| (with, raw));
                history = known;
                continue;
            }
            Ok(Step::Other(what)) => return Ok(Taken::Other(what)),
            Err(fault) if fault.incomplete && patient => return Ok(Taken::Incomplete(fault)),
            Err(fault) => return quarantine(desk, store, &document, fault).await,
        };
        let key = accepted.key.clone();
        crash::reached(crash::Step::Composed);
        match store.accept(*accepted).await? {
            Acceptance::Stored(delivery) => {
                let delivered = delivery.map(|id| id.0);
                info!(tenant = key.tenant, session = %key.name, delivery = delivered, "accepted a revision");
                return Ok(Taken::Stored(key, delivery));
            }
            Acceptance::Duplicate(delivery) => return Ok(Taken::Known(key, delivery)),
            Acceptance::OutOfDate(newer) => (history, followed) = (newer, None),
        }
    }
}

/// Runs pure work off the asynchronous threads: there it would keep answers of relays from being read. A panic in it
/// is contained and told.
async fn on_worker<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IntakeError> {
    let (answer, answered) = oneshot::channel();
    // It is refused only when all threads are gone, and then there is no answer.
    drop(WORKERS.send(Box::new(move || drop(answer.send(work())))));
    answered.await.map_err(|_| IntakeError::Worker(name.to_owned()))
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
    document: Arc<Document>,
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
    fn step(self) -> Result<Step, Fault> {
        let Document { name, bytes, .. } = &*self.document;
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
            source: self.document.source.clone(),
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
