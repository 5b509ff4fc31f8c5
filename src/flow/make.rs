//! From a planned update to what the outbox keeps: a signed mail, or a note for the CRM's record.

use serde_json::Value;
use tracing::error;

use super::desk::Desk;
use super::intake::chain;
use crate::compose::{Parts, attaches, attachment_name};
use crate::ids::{Digest, SessionKey};
use crate::plan::{History, Mail, Plan, Target, Timing, plan};
use crate::record::note::Note;
use crate::session::{Reading, Session, read};
use crate::store::{Message, Planned};
use crate::template::changes::changes;
use crate::template::{Context, Rendered};
use crate::token::Place;
use crate::view::view;

/// What an update is made of.
#[derive(Clone, Copy)]
pub(super) struct Making<'m> {
    /// Whose templates and keys.
    pub(super) desk: &'m Desk,
    /// Which session.
    pub(super) key: &'m SessionKey,
    /// The revision's bytes.
    pub(super) raw: &'m [u8],
    /// Their digest.
    pub(super) digest: &'m Digest,
    /// The bytes of the revision that it follows, if it follows one.
    pub(super) followed: Option<&'m [u8]>,
    /// Whether a mail goes without the file, because it was too big for somebody.
    pub(super) is_smaller: bool,
}

impl Making<'_> {
    /// Makes the update; nothing where it would show what was shown before.
    pub(super) fn planned(&self, session: Session, mail: &Mail) -> Planned {
        let attach = self.attaches(mail);
        let rendered = match render(self.desk, session, attach, self.followed) {
            Some(Ok(rendered)) => rendered,
            Some(Err(reason)) => return Planned::Hold(reason),
            None => return Planned::Nothing("nothing that the mail shows has changed"),
        };
        match self.message(mail, &rendered, attach) {
            Ok(message) => Planned::Message {
                digest: message.digest(),
                message,
                due: mail.due,
                waits_for: mail.waits_for,
                hold: mail.hold.clone(),
            },
            Err(fault) => Planned::Hold(fault),
        }
    }

    /// Whether the file goes along: always with a note, and with a mail where it fits.
    fn attaches(&self, mail: &Mail) -> bool {
        let fits = || !self.is_smaller && attaches(&self.desk.tenant, self.raw.len());
        mail.target == Target::Record || fits()
    }

    fn message(&self, mail: &Mail, rendered: &Rendered, attach: bool) -> Result<Message, String> {
        let now = self.desk.clock.now();
        match &mail.target {
            Target::Email(recipient) => {
                let (session, raw, digest) = (self.key, self.raw, self.digest);
                let parts = Parts { session, raw, digest, mail, recipient, rendered, attach };
                self.desk.compose(&parts, now).map(Message::Mail)
            }
            Target::Record => {
                let record = self.desk.tenant.record.as_ref().ok_or("the tenant has no section [record]")?;
                let unique = Digest::of_parts(&[&self.digest.0, b"record", record.base.as_str().as_bytes()]);
                let external_id = self.desk.keys[0].sign(self.key, &unique, Place::MessageId);
                let (session, file) = (self.key.name.to_string(), attachment_name(self.key.name));
                let note = Note::new(record, external_id, session, file, mail, rendered, now);
                Ok(Message::Note(Box::new(note)))
            }
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

/// Makes the update of a session without storing anything: for previews and dry runs.
pub fn draft(desk: &Desk, session: Session, raw: &[u8]) -> Result<(Rendered, Message), String> {
    let tenant = &desk.tenant;
    let key =
        SessionKey { tenant: tenant.name.clone(), instance: tenant.instance.clone(), name: session.name };
    let digest = Digest::of(raw);
    let (history, now) = (History::default(), desk.clock.now());
    let mail = match plan(&session, &digest, tenant, tenant.channel, &history, Timing::Now, now) {
        Plan::Send(mail) => mail,
        Plan::Hold { reason, .. } => return Err(format!("this session would be held: {reason}")),
        Plan::Keep(reason) => return Err(reason.to_owned()),
    };
    let making = Making { desk, key: &key, raw, digest: &digest, followed: None, is_smaller: false };
    let (attach, lang) = (making.attaches(&mail), session.lang.clone());
    let rendered = render_or_fall_back(desk, lang.as_deref(), data(desk, session, attach))?;
    let message = making.message(&mail, &rendered, attach)?;
    Ok((rendered, message))
}
