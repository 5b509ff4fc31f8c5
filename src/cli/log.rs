//! `aftercall log`: what was sent, to whom, and what the servers said.

use std::io::{self, Write};

use jiff::{Span, SpanRelativeTo, Timestamp};
use serde_json::{Value, json};

use super::inbox::followed;
use super::table::{Format, Rows};
use super::{Exit, Misuse, open_store, preview};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::tenant::Channel;
use crate::ids::{DeliveryId, SessionName};
use crate::outbox::State;
use crate::record::note::Note;
use crate::store::{AttemptRow, DeliveryRow, Filter, Store, Story, VerdictRow};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    filter: FilterArguments,
    /// How to write.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// One session's whole story: revisions, deliveries, every attempt and what the server answered.
    Show {
        /// call-NUMBER or chat-NUMBER.
        session: SessionName,
        /// Only of this tenant.
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// How to write.
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// The newest file of a session, byte for byte as it came.
    File {
        /// call-NUMBER or chat-NUMBER.
        session: SessionName,
        /// Of this tenant, where several have a session of that name.
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
    },
    /// One delivery's mail as it was sent.
    Mail {
        /// The delivery's number.
        delivery: i64,
        /// The bytes as they went over the wire, instead of the readable parts.
        #[arg(long)]
        source: bool,
    },
    /// The files that were not sessions, and why.
    Quarantine {
        /// Write this one's bytes instead of the list.
        id: Option<i64>,
        /// Only of this tenant.
        #[arg(long, value_name = "T")]
        tenant: Option<String>,
        /// How to write.
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
}

/// Which deliveries.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FilterArguments {
    /// Of this tenant.
    #[arg(long, value_name = "T")]
    pub(super) tenant: Option<String>,
    /// About this session: call-NUMBER or chat-NUMBER.
    #[arg(long)]
    pub(super) session: Option<SessionName>,
    /// For this ticket.
    #[arg(long)]
    pub(super) ticket: Option<String>,
    /// To this address.
    #[arg(long)]
    pub(super) recipient: Option<String>,
    /// By this channel: email, record or webhook.
    #[arg(long)]
    pub(super) channel: Option<Channel>,
    /// In this state; may be given several times.
    #[arg(long)]
    pub(super) state: Vec<State>,
    /// Changed since: a moment such as 2026-11-20T08:00Z, or a time ago such as 2h or 7d.
    #[arg(long)]
    pub(super) since: Option<String>,
    /// At most so many, the newest.
    #[arg(long, value_name = "N")]
    pub(super) most: Option<u32>,
}

impl FilterArguments {
    pub(super) fn filter(&self) -> Result<Filter, Misuse> {
        Ok(Filter {
            ids: Vec::new(),
            tenant: self.tenant.clone(),
            session: self.session,
            ticket: self.ticket.clone(),
            recipient: self.recipient.clone(),
            channel: self.channel,
            instead_of: Vec::new(),
            states: self.state.clone(),
            since: self.since.as_deref().map(|text| since(text, Clock::default().now())).transpose()?,
            told_after: None,
            most: self.most,
        })
    }

    /// Whether nothing is asked for, so that everything would be chosen.
    pub(super) fn is_empty(&self) -> bool {
        let Self { tenant, session, ticket, recipient, channel, state, since, most } = self;
        let texts = [tenant, ticket, recipient, since].iter().all(|text| text.is_none());
        texts && session.is_none() && channel.is_none() && state.is_empty() && most.is_none()
    }
}

fn since(text: &str, now: Timestamp) -> Result<Timestamp, Misuse> {
    let ago = || -> Result<Timestamp, jiff::Error> {
        now.checked_sub(text.parse::<Span>()?.to_duration(SpanRelativeTo::days_are_24_hours())?)
    };
    text.parse()
        .or_else(|_| ago())
        .map_err(|_| Misuse(format!("--since {text:?}: write 2026-11-20T08:00Z, or 2h or 7d")))
}

pub(super) fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<Exit> {
    let store = open_store(config)?;
    let out = &mut io::stdout().lock();
    match &arguments.what {
        None => {
            list(out, &store.deliveries(&arguments.filter.filter()?)?, arguments.format)?;
            Ok(Exit::Done)
        }
        Some(What::Show { session, tenant, format }) => {
            let stories = store.stories(*session, tenant.as_deref())?;
            if stories.is_empty() {
                return unknown(*session);
            }
            show(out, &stories, *format)?;
            Ok(Exit::Done)
        }
        Some(What::File { session, tenant }) => match store.newest_file(*session, tenant.as_deref())? {
            Some(bytes) => {
                out.write_all(&bytes)?;
                Ok(Exit::Done)
            }
            None => unknown(*session),
        },
        Some(What::Mail { delivery, source }) => mail(out, &store, DeliveryId(*delivery), *source),
        Some(What::Quarantine { id: Some(id), .. }) => quarantined(out, &store, *id),
        Some(What::Quarantine { id: None, tenant, format }) => {
            quarantine(out, &store, tenant.as_deref(), *format)
        }
    }
}

/// The deliveries as rows.
pub(super) fn list(out: &mut dyn Write, deliveries: &[DeliveryRow], format: Format) -> io::Result<()> {
    let mut rows = Rows::new(&[
        "id",
        "changed",
        "tenant",
        "session",
        "ticket",
        "recipient",
        "state",
        "attempts",
        "reason",
    ]);
    for row in deliveries {
        rows.push(vec![
            row.id.0.into(),
            stamp(row.changed_at).into(),
            row.tenant.clone().into(),
            row.session.to_string().into(),
            row.ticket.clone().into(),
            row.recipient.clone().into(),
            row.state.as_str().into(),
            row.attempts.into(),
            row.reason.clone().into(),
        ]);
    }
    rows.write(out, format)
}

/// A moment in UTC to the second, as lists show it.
pub(super) fn stamp(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn show(out: &mut dyn Write, stories: &[Story], format: Format) -> io::Result<()> {
    match format {
        Format::Table => stories.iter().try_for_each(|story| tell(out, story)),
        Format::Json => writeln!(out, "{:#}", Value::Array(stories.iter().map(as_json).collect())),
        Format::Csv => {
            let mut rows = Rows::new(&["tenant", "session", "number", "record", "content", "hash"]);
            for (story, record) in
                stories.iter().flat_map(|story| story.records.iter().map(move |record| (story, record)))
            {
                rows.push(vec![
                    story.tenant.clone().into(),
                    story.session.to_string().into(),
                    record.number.into(),
                    record.record.clone().into(),
                    record.content.clone().into(),
                    record.hash.to_string().into(),
                ]);
            }
            rows.write(out, format)
        }
    }
}

/// A session's story for people.
fn tell(out: &mut dyn Write, story: &Story) -> io::Result<()> {
    writeln!(out, "{} of tenant {}", story.session, story.tenant)?;
    writeln!(
        out,
        "  ticket    {} {}",
        story.ticket.as_deref().unwrap_or("none"),
        story.ticket_url.as_deref().unwrap_or("")
    )?;
    for revision in &story.revisions {
        let digest = revision.digest.to_string();
        writeln!(
            out,
            "  revision  {} accepted {} from {} (SHA-256 {}…)",
            stamp(revision.updated_at),
            stamp(revision.accepted_at),
            revision.source,
            &digest[..12]
        )?;
    }
    story.deliveries.iter().try_for_each(|delivery| tell_delivery(out, story, delivery))?;
    for inbound in &story.inbounds {
        let about = inbound.delivery.map(|id| format!(" about delivery {id}")).unwrap_or_default();
        let kind = inbound.kind.as_deref().unwrap_or("not judged yet");
        let at = stamp(inbound.arrived_at);
        writeln!(out, "  came back {at}: {kind}{about}: {} (inbound {})", followed(inbound), inbound.id)?;
    }
    writeln!(out, "  log")?;
    for record in &story.records {
        let parsed: Value = serde_json::from_str(&record.record).unwrap_or_default();
        let part = |key: &str| parsed[key].as_str().unwrap_or_default().to_owned();
        let hash = record.hash.to_string();
        writeln!(
            out,
            "    {:>5} {} {:<11} {} {}…",
            record.number,
            part("at"),
            part("event"),
            record.content.as_deref().unwrap_or("(erased)"),
            &hash[..12]
        )?;
    }
    Ok(())
}

fn tell_delivery(out: &mut dyn Write, story: &Story, delivery: &DeliveryRow) -> io::Result<()> {
    writeln!(
        out,
        "  delivery {} by {} to {}: {}",
        delivery.id,
        delivery.channel,
        delivery.recipient.as_deref().unwrap_or("nobody yet"),
        delivery.state
    )?;
    match (&delivery.message_id, delivery.channel) {
        (Some(id), Channel::Email) => writeln!(out, "    Message-ID <{id}>")?,
        (Some(id), Channel::Record) => writeln!(out, "    external id {id}")?,
        (Some(id), Channel::Webhook) => writeln!(out, "    webhook-id {id}")?,
        (None, _) => {}
    }
    if let Some(given_up) = delivery.instead_of {
        writeln!(out, "    in the place of delivery {given_up}")?;
    }
    if !delivery.reason.is_empty() {
        writeln!(out, "    {}", delivery.reason)?;
    }
    if let Some(due) = delivery.due {
        writeln!(out, "    next attempt from {}", stamp(due))?;
    }
    for attempt in story.attempts.iter().filter(|attempt| attempt.delivery == delivery.id) {
        writeln!(out, "    attempt {} {}", attempt.number, told(attempt))?;
    }
    Ok(())
}

fn told(attempt: &AttemptRow) -> String {
    let end = match (&attempt.ended_at, &attempt.outcome) {
        (Some(at), Some(outcome)) => format!("ended {at:.3}: {outcome}"),
        _ => "has not ended".to_owned(),
    };
    let code = attempt.code.map(|code| format!(" {code}")).unwrap_or_default();
    let stage = attempt.stage.as_deref().map(|stage| format!(" at {stage}")).unwrap_or_default();
    let via = attempt
        .relay
        .as_deref()
        .filter(|relay| !relay.is_empty())
        .map(|relay| format!(" via {relay}"))
        .unwrap_or_default();
    let tls = attempt.tls.as_deref().map(|tls| format!(" ({tls})")).unwrap_or_default();
    let answer = attempt.answer.as_deref().map(|answer| format!(":{code} {answer}")).unwrap_or_default();
    format!("began {:.3}, {end}{stage}{via}{tls}{answer}", attempt.began_at)
}

fn as_json(story: &Story) -> Value {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.into());
    json!({
        "tenant": story.tenant,
        "session": story.session.to_string(),
        "ticket": story.ticket,
        "ticket_url": story.ticket_url,
        "revisions": story.revisions.iter().map(|revision| json!({
            "updated_at": revision.updated_at.to_string(),
            "sha256": revision.digest.to_string(),
            "source": revision.source,
            "accepted_at": revision.accepted_at.to_string(),
        })).collect::<Value>(),
        "deliveries": story.deliveries.iter().map(|delivery| json!({
            "id": delivery.id.0,
            "channel": delivery.channel.as_str(),
            "instead_of": delivery.instead_of.map(|id| id.0),
            "ticket": delivery.ticket,
            "recipient": delivery.recipient,
            "message_id": delivery.message_id,
            "state": delivery.state.as_str(),
            "reason": delivery.reason,
            "due": delivery.due.map(|due| due.to_string()),
            "created_at": delivery.created_at.to_string(),
            "changed_at": delivery.changed_at.to_string(),
        })).collect::<Value>(),
        "attempts": story.attempts.iter().map(|attempt| json!({
            "delivery": attempt.delivery.0,
            "number": attempt.number,
            "began_at": attempt.began_at.to_string(),
            "ended_at": attempt.ended_at.map(|at| at.to_string()),
            "outcome": attempt.outcome,
            "relay": attempt.relay,
            "tls": attempt.tls,
            "stage": attempt.stage,
            "code": attempt.code,
            "answer": attempt.answer,
        })).collect::<Value>(),
        "inbounds": story.inbounds.iter().map(VerdictRow::as_json).collect::<Value>(),
        "log": story.records.iter().map(|record| json!({
            "record": parsed(&record.record),
            "content": record.content.as_deref().map(parsed),
            "hash": record.hash.to_string(),
        })).collect::<Value>(),
    })
}

fn mail(out: &mut dyn Write, store: &Store, id: DeliveryId, source: bool) -> anyhow::Result<Exit> {
    let Some(wire) = store.message(id)? else {
        writeln!(io::stderr(), "delivery {id} has no mail")?;
        return Ok(Exit::Failed);
    };
    let rows = store.deliveries(&Filter { ids: vec![id], ..Filter::default() })?;
    let channel = rows.first().map(|row| row.channel);
    let note = Note::from_bytes(&wire).filter(|_| channel == Some(Channel::Record));
    if let Some(note) = note.filter(|_| !source) {
        preview::write_note(out, &note)?;
    } else if source || channel == Some(Channel::Webhook) {
        out.write_all(&wire)?;
    } else {
        preview::write_mail(out, &wire)?;
    }
    Ok(Exit::Done)
}

fn unknown(session: SessionName) -> anyhow::Result<Exit> {
    writeln!(io::stderr(), "nothing is known of {session}")?;
    Ok(Exit::Failed)
}

fn quarantined(out: &mut dyn Write, store: &Store, id: i64) -> anyhow::Result<Exit> {
    let Some(bytes) = store.quarantined_bytes(id)? else {
        writeln!(io::stderr(), "nothing in quarantine has the number {id}")?;
        return Ok(Exit::Failed);
    };
    out.write_all(&bytes)?;
    Ok(Exit::Done)
}

fn quarantine(
    out: &mut dyn Write,
    store: &Store,
    tenant: Option<&str>,
    format: Format,
) -> anyhow::Result<Exit> {
    let mut rows = Rows::new(&["id", "at", "tenant", "file", "octets", "reason"]);
    for row in store.quarantined(tenant)? {
        rows.push(vec![
            row.id.into(),
            stamp(row.at).into(),
            row.tenant.into(),
            row.source.into(),
            row.octets.into(),
            row.reason.into(),
        ]);
    }
    rows.write(out, format)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_a_moment_or_a_time_ago() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let table = [
            ("2026-11-20T08:00:00Z", Some("2026-11-20T08:00:00Z")),
            ("2h", Some("2026-11-22T10:00:00Z")),
            ("7d", Some("2026-11-15T12:00:00Z")),
            ("yesterday", None),
        ];
        for (text, at) in table {
            assert_eq!(since(text, now).ok().map(|at| at.to_string()).as_deref(), at, "{text}");
        }
    }
}
