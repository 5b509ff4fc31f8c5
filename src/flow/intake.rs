//! From a file's bytes to a stored revision with its delivery.
//!
//! Reading, planning, rendering and composing see no store; the store then takes the whole result in one
//! transaction, or says that more is known, and the planning is done again with that.

use std::sync::Arc;

use serde_json::Value;
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::desk::Desk;
use crate::compose::{Composed, Parts, attachment_name, compose, fits};
use crate::ids::{DeliveryId, Digest, SessionKey};
use crate::plan::{History, Mail, Plan, Timing, plan};
use crate::session::{Fault, Reading, Session, read};
use crate::store::{Acceptance, Accepted, Planned, Quarantined, Store, StoreError};
use crate::template::changes::changes;
use crate::template::{Context, Rendered};
use crate::view::view;

/// A file as it came.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its name without folders, which may tell the kind.
    pub name: String,
    /// Where it came from, for people.
    pub source: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
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
    let name = document.name.clone();
    let limit = desk.session_bytes;
    let (reading, document) =
        on_worker(&name, move || (read(&document.bytes, &document.name, limit), document)).await?;
    let session = match reading {
        Ok(Reading::Session(session)) => Arc::<Session>::from(session),
        Ok(Reading::Other(what)) => return Ok(Taken::Other(what)),
        Err(fault) if fault.incomplete && patient => return Ok(Taken::Incomplete(fault)),
        Err(fault) => return quarantine(desk, store, document, fault).await,
    };
    let key = SessionKey {
        tenant: desk.tenant.name.clone(),
        instance: desk.tenant.instance.clone(),
        name: session.name,
    };
    let digest = Digest::of(&document.bytes);
    let (mut history, mut followed) = (History::default(), None);
    loop {
        if let Some(wanted) = followed_revision(desk, &session, &digest, &history, timing) {
            followed = store.revision(key.clone(), wanted).await?;
        }
        let work = Revision {
            desk: desk.clone(),
            key: key.clone(),
            session: Arc::clone(&session),
            digest,
            followed: followed.take(),
        };
        let (document, known) = (document.clone(), history.clone());
        let accepted = on_worker(&name, move || work.accepted(document, &known, timing)).await?;
        match store.accept(accepted).await? {
            Acceptance::Stored(delivery) => {
                info!(tenant = key.tenant, session = %key.name, delivery = delivery.map(|id| id.0), "accepted a revision");
                return Ok(Taken::Stored(key, delivery));
            }
            Acceptance::Duplicate(delivery) => return Ok(Taken::Known(key, delivery)),
            Acceptance::OutOfDate(newer) => history = newer,
        }
    }
}

/// Runs pure work off the asynchronous threads. A panic there is contained and told.
async fn on_worker<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IntakeError> {
    spawn_blocking(work).await.map_err(|_| IntakeError::Worker(name.to_owned()))
}

async fn quarantine(
    desk: &Desk,
    store: &Store,
    document: Document,
    fault: Fault,
) -> Result<Taken, IntakeError> {
    let tenant = desk.tenant.name.clone();
    let mut raw = document.bytes;
    raw.truncate(desk.session_bytes);
    let quarantined = Quarantined {
        tenant: tenant.clone(),
        source: document.source,
        reason: fault.to_string(),
        raw,
        now: desk.clock.now(),
    };
    let source = quarantined.source.clone();
    if store.quarantine(quarantined).await? {
        warn!(tenant, source, reason = %fault, "quarantined a file that is not a session");
    }
    Ok(Taken::Quarantined(fault))
}

/// The revision that a follow-up would be compared with.
fn followed_revision(
    desk: &Desk,
    session: &Session,
    digest: &Digest,
    history: &History,
    timing: Timing,
) -> Option<Digest> {
    match plan(session, digest, &desk.tenant, history, timing, desk.clock.now()) {
        Plan::Send(mail) => mail.follows,
        Plan::Keep(_) | Plan::Hold { .. } => None,
    }
}

/// One revision on its way to the store.
struct Revision {
    desk: Desk,
    key: SessionKey,
    session: Arc<Session>,
    digest: Digest,
    followed: Option<Vec<u8>>,
}

impl Revision {
    fn accepted(self, document: Document, history: &History, timing: Timing) -> Accepted {
        let now = self.desk.clock.now();
        let (updated_at, ticket) = (self.session.updated_at, self.session.ticket.clone());
        let (planned, supersedes) =
            match plan(&self.session, &self.digest, &self.desk.tenant, history, timing, now) {
                Plan::Keep(why) => (Planned::Nothing(why), vec![]),
                Plan::Hold { reason, supersedes } => (Planned::Hold(reason), supersedes),
                Plan::Send(mail) => (self.message(&document.bytes, &mail), mail.supersedes),
            };
        Accepted {
            key: self.key,
            updated_at,
            digest: self.digest,
            raw: document.bytes,
            source: document.source,
            ticket,
            revisions: history.revisions,
            planned,
            supersedes,
            now,
        }
    }

    fn message(&self, raw: &[u8], mail: &Mail) -> Planned {
        let attach = fits(raw.len(), self.desk.tenant.limits.message_bytes);
        let Some(rendered) = render(&self.desk, &self.session, attach, self.followed.as_deref()) else {
            return Planned::Nothing("nothing that the mail shows has changed");
        };
        let rendered = match rendered {
            Ok(rendered) => rendered,
            Err(reason) => return Planned::Hold(reason),
        };
        let parts =
            Parts { session: &self.key, raw, digest: &self.digest, mail, rendered: &rendered, attach };
        match compose(&parts, &self.desk.tenant, &self.desk.key, self.desk.clock.now()) {
            Ok(message) => Planned::Message { message, due: mail.due, waits_for: mail.waits_for },
            Err(fault) => Planned::Hold(chain(&fault)),
        }
    }
}

/// Renders a session's mail. None for a follow-up that would show the same as the revision before it.
fn render(
    desk: &Desk,
    session: &Session,
    attach: bool,
    followed: Option<&[u8]>,
) -> Option<Result<Rendered, String>> {
    let tenant = &desk.tenant;
    let lang = session.lang.as_deref();
    let show = |session: Session| {
        let name = format!("{}.json", session.name);
        let mut view = view(session, &tenant.title, &tenant.limits);
        view["attachment"] = if attach { name.into() } else { Value::Null };
        view
    };
    let mut data = show(session.clone());
    let earlier = followed.and_then(|raw| match read(raw, "", desk.session_bytes) {
        Ok(Reading::Session(session)) => Some(show(*session)),
        _ => None,
    });
    if let Some(mut earlier) = earlier {
        // The version stamp differs in every revision; by itself it is no news.
        earlier["times"]["updated"] = data["times"]["updated"].clone();
        let text = |view: Value| {
            desk.templates.render(lang, &Context::from(view)).map(|mail| (mail.subject, mail.text))
        };
        if let (Ok(before), Ok(after)) = (text(earlier.clone()), text(data.clone()))
            && before == after
        {
            return None;
        }
        data["changes"] = changes(&earlier, &data, desk.templates.language(lang));
        data["is_follow_up"] = true.into();
    }
    Some(render_or_fall_back(desk, lang, data))
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
pub fn draft(desk: &Desk, session: &Session, raw: &[u8]) -> Result<(Rendered, Composed), String> {
    let key = SessionKey {
        tenant: desk.tenant.name.clone(),
        instance: desk.tenant.instance.clone(),
        name: session.name,
    };
    let digest = Digest::of(raw);
    let now = desk.clock.now();
    let mail = match plan(session, &digest, &desk.tenant, &History::default(), Timing::Now, now) {
        Plan::Send(mail) => mail,
        Plan::Hold { reason, .. } => return Err(format!("this session would be held: {reason}")),
        Plan::Keep(reason) => return Err(reason.to_owned()),
    };
    let attach = fits(raw.len(), desk.tenant.limits.message_bytes);
    let mut data = view(session.clone(), &desk.tenant.title, &desk.tenant.limits);
    data["attachment"] = if attach { attachment_name(&key).into() } else { Value::Null };
    let rendered = render_or_fall_back(desk, session.lang.as_deref(), data)?;
    let parts = Parts { session: &key, raw, digest: &digest, mail: &mail, rendered: &rendered, attach };
    let composed = compose(&parts, &desk.tenant, &desk.key, now).map_err(|fault| chain(&fault))?;
    Ok((rendered, composed))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
