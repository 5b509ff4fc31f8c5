//! From a file's bytes to a stored revision with its delivery.
//!
//! Reading, planning, rendering and composing see no store; the store then takes the whole result in one
//! transaction, or says that more is known, and the planning is done again with that.

use std::sync::Arc;

use serde_json::Value;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::desk::Desk;
use crate::compose::{Composed, Parts, attaches, attachment_name};
use crate::crash;
use crate::ids::{DeliveryId, Digest, SessionKey};
use crate::plan::{History, Mail, Plan, Timing, plan};
use crate::session::{Fault, Reading, Session, read};
use crate::store::{Acceptance, Accepted, Planned, Quarantined, Store, StoreError};
use crate::template::changes::changes;
use crate::template::{Context, Rendered};
use crate::view::view;

/// The most octets of a file whose mail is made in well under a millisecond, so that handing it to another
/// thread would cost more than it spares.
const SMALL: usize = 64 * 1024;

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
        let step = on_worker(&document, move || work.step()).await?;
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

/// Runs pure work, off the asynchronous threads where it may take long. A panic in it is contained and told.
async fn on_worker<T: Send + 'static>(
    document: &Document,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IntakeError> {
    let result = if document.bytes.len() <= SMALL {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
    } else {
        spawn_blocking(work).await.ok()
    };
    result.ok_or_else(|| IntakeError::Worker(document.name.clone()))
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
        let (updated_at, ticket) = (session.updated_at, session.ticket.clone());
        let (planned, supersedes) = match plan(&session, &digest, tenant, &self.history, self.timing, now) {
            Plan::Keep(why) => (Planned::Nothing(why), vec![]),
            Plan::Hold { reason, supersedes } => (Planned::Hold(reason), supersedes),
            Plan::Send(mail) => {
                let fetched = self.followed.as_ref().map(|(digest, _)| *digest);
                if let Some(with) = mail.follows.filter(|with| fetched != Some(*with)) {
                    return Ok(Step::Compare { key, with, history: self.history });
                }
                (self.message(session, &key, &digest, &mail), mail.supersedes)
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
            planned,
            supersedes,
            now,
        })))
    }

    fn message(&self, session: Session, key: &SessionKey, digest: &Digest, mail: &Mail) -> Planned {
        let raw = &*self.document.bytes;
        let attach = attaches(&self.desk.tenant, raw.len());
        let followed = self.followed.as_ref().map(|(_, raw)| &raw[..]);
        let rendered = match render(&self.desk, session, attach, followed) {
            Some(Ok(rendered)) => rendered,
            Some(Err(reason)) => return Planned::Hold(reason),
            None => return Planned::Nothing("nothing that the mail shows has changed"),
        };
        let parts = Parts { session: key, raw, digest, mail, rendered: &rendered, attach };
        match self.desk.compose(&parts, self.desk.clock.now()) {
            Ok(message) => Planned::Message {
                message,
                due: mail.due,
                waits_for: mail.waits_for,
                hold: mail.hold.clone(),
            },
            Err(fault) => Planned::Hold(fault),
        }
    }
}

/// The data of a session for the templates.
fn data(desk: &Desk, session: Session, attach: bool) -> Value {
    let name = attach.then(|| attachment_name(session.name));
    let mut data = view(session, &desk.tenant.title, &desk.tenant.limits);
    data["attachment"] = name.into();
    data
}

/// Renders a session's mail. None for a follow-up that would show the same as the revision before it.
fn render(
    desk: &Desk,
    session: Session,
    attach: bool,
    followed: Option<&[u8]>,
) -> Option<Result<Rendered, String>> {
    let lang = session.lang.clone();
    let lang = lang.as_deref();
    let mut now = data(desk, session, attach);
    let earlier = followed.and_then(|raw| match read(raw, "", desk.session_bytes) {
        Ok(Reading::Session(session)) => Some(data(desk, *session, attach)),
        _ => None,
    });
    if let Some(mut earlier) = earlier {
        // The version stamp differs in every revision; by itself it is no news.
        earlier["times"]["updated"] = now["times"]["updated"].clone();
        let changes = changes(&earlier, &now, desk.templates.language(lang));
        let text = |data: Value| {
            desk.templates.render(lang, &Context::from(data)).map(|mail| (mail.subject, mail.text))
        };
        if let (Ok(before), Ok(after)) = (text(earlier), text(now.clone()))
            && before == after
        {
            return None;
        }
        now["changes"] = changes;
        now["is_follow_up"] = true.into();
    }
    Some(render_or_fall_back(desk, lang, now))
}

/// A mail is never lost for a template: what the tenant's own cannot render, the shipped ones do.
fn render_or_fall_back(desk: &Desk, lang: Option<&str>, data: Value) -> Result<Rendered, String> {
    let data = Context::from(data);
    let own = match desk.templates.render(lang, &data) {
        Ok(rendered) => return Ok(rendered),
        Err(fault) => chain(&fault),
    };
    error!(tenant = desk.tenant.name, cause = own, "a template failed; the shipped one is used");
    desk.shipped.render(lang, &data).map_err(|fault| chain(&fault))
}

/// Makes the mail of a session without storing anything: for previews and dry runs.
pub fn draft(desk: &Desk, session: Session, raw: &[u8]) -> Result<(Rendered, Composed), String> {
    let key = SessionKey {
        tenant: desk.tenant.name.clone(),
        instance: desk.tenant.instance.clone(),
        name: session.name,
    };
    let digest = Digest::of(raw);
    let now = desk.clock.now();
    let mail = match plan(&session, &digest, &desk.tenant, &History::default(), Timing::Now, now) {
        Plan::Send(mail) => mail,
        Plan::Hold { reason, .. } => return Err(format!("this session would be held: {reason}")),
        Plan::Keep(reason) => return Err(reason.to_owned()),
    };
    let attach = attaches(&desk.tenant, raw.len());
    let lang = session.lang.clone();
    let rendered = render_or_fall_back(desk, lang.as_deref(), data(desk, session, attach))?;
    let parts = Parts { session: &key, raw, digest: &digest, mail: &mail, rendered: &rendered, attach };
    let composed = desk.compose(&parts, now)?;
    Ok((rendered, composed))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
