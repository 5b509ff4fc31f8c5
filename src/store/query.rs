//! Questions to the store. They read a snapshot and change nothing.

use jiff::Timestamp;

use super::engine::{Arg, Result, Row, Tx, args};
use super::judged::{VerdictFilter, VerdictRow, verdicts};
use super::{Store, StoreError, UNSETTLED, moment, name, optional_moment};
use crate::compose::join_attachment;
use crate::config::tenant::Channel;
use crate::ids::{DeliveryId, Digest, SessionName};
use crate::outbox::State;

/// Which deliveries; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These numbers.
    pub ids: Vec<DeliveryId>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// About this session.
    pub session: Option<SessionName>,
    /// For this ticket.
    pub ticket: Option<String>,
    /// To this address.
    pub recipient: Option<String>,
    /// By this channel.
    pub channel: Option<Channel>,
    /// In the place of these.
    pub instead_of: Vec<DeliveryId>,
    /// In one of these states.
    pub states: Vec<State>,
    /// Changed at this moment or later.
    pub since: Option<Timestamp>,
    /// Those that the log of this tenant tells of behind this record: what has changed since, found without a look at
    /// all others.
    pub told_after: Option<(String, i64)>,
    /// The most rows, the newest.
    pub most: Option<u32>,
}

/// One delivery as the lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number.
    pub id: DeliveryId,
    /// Whose.
    pub tenant: String,
    /// About what.
    pub session: SessionName,
    /// For which ticket.
    pub ticket: Option<String>,
    /// By which way.
    pub channel: Channel,
    /// To whom: an address or a CRM; none for one that could not be composed.
    pub recipient: Option<String>,
    /// The Message-ID without brackets, or the external id.
    pub message_id: Option<String>,
    /// The channel that takes over when this one is given up; none once it has.
    pub fallback: Option<Channel>,
    /// The delivery in whose place it was made.
    pub instead_of: Option<DeliveryId>,
    /// Where it stands.
    pub state: State,
    /// Why.
    pub reason: String,
    /// When it goes on by itself.
    pub due: Option<Timestamp>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its state changed last.
    pub changed_at: Timestamp,
}

/// One revision of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionRow {
    /// The version stamp.
    pub updated_at: Timestamp,
    /// The digest of the bytes.
    pub digest: Digest,
    /// Where it came from.
    pub source: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// The delivery.
    pub delivery: DeliveryId,
    /// From 1.
    pub number: u32,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended; none while it runs.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<String>,
    /// The relay as `host:port`.
    pub relay: Option<String>,
    /// How the connection was secured.
    pub tls: Option<String>,
    /// The step that decided.
    pub stage: Option<String>,
    /// The server's reply code.
    pub code: Option<u16>,
    /// The server's enhanced code.
    pub enhanced: Option<String>,
    /// The server's words.
    pub answer: Option<String>,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place in the tenant's chain.
    pub number: i64,
    /// The chained text.
    pub record: String,
    /// The details; none once erased.
    pub content: Option<String>,
    /// The chain's hash up to here.
    pub hash: Digest,
}

/// Everything about one session.
#[derive(Debug, Clone)]
pub struct Story {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub session: SessionName,
    /// The newest revision's ticket.
    pub ticket: Option<String>,
    /// And its URL.
    pub ticket_url: Option<String>,
    /// All revisions, in the order of their arrival.
    pub revisions: Vec<RevisionRow>,
    /// All deliveries, oldest first.
    pub deliveries: Vec<DeliveryRow>,
    /// All attempts, oldest first.
    pub attempts: Vec<AttemptRow>,
    /// The mails that came back about it, oldest first.
    pub inbounds: Vec<VerdictRow>,
    /// All log records, oldest first.
    pub records: Vec<LogRow>,
}

/// One file that was not a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRow {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub tenant: String,
    /// The file.
    pub source: String,
    /// When it was read.
    pub at: Timestamp,
    /// Place and reason.
    pub reason: String,
    /// How many octets are kept.
    pub octets: u64,
}

type Answer<T> = std::result::Result<T, StoreError>;

impl Store {
    /// The deliveries that the filter chooses, oldest first.
    pub fn deliveries(&self, filter: &Filter) -> Answer<Vec<DeliveryRow>> {
        self.read(|tx| list(tx, filter))
    }

    /// Everything about a session, for each tenant that has one of that name.
    pub fn stories(&self, session: SessionName, tenant: Option<&str>) -> Answer<Vec<Story>> {
        self.read(|tx| {
            let found = tx.query(
                "SELECT id, tenant, ticket, ticket_url FROM sessions \
                 WHERE kind = $1 AND number = $2 AND (CAST($3 AS TEXT) IS NULL OR tenant = $3) ORDER BY tenant",
                args![session.kind.as_str(), session.number, tenant],
                |row| Ok((row.get::<i64>(0)?, row.get::<String>(1)?, row.get(2)?, row.get(3)?)),
            )?;
            let story = |(id, tenant, ticket, ticket_url): (i64, String, _, _)| {
                let filter =
                    Filter { session: Some(session), tenant: Some(tenant.clone()), ..Filter::default() };
                let about = VerdictFilter {
                    session: Some(session),
                    tenant: Some(tenant.clone()),
                    most: MOST_INBOUNDS,
                    ..VerdictFilter::default()
                };
                Ok(Story {
                    session,
                    inbounds: verdicts(tx, &about)?,
                    ticket,
                    ticket_url,
                    revisions: tx.query(REVISIONS, args![id], revision)?,
                    deliveries: list(tx, &filter)?,
                    attempts: tx.query(ATTEMPTS, args![id], attempt)?,
                    records: tx.query(RECORDS, args![id], log_row)?,
                    tenant,
                })
            };
            found.into_iter().map(story).collect()
        })
    }

    /// The bytes of a session's newest revision.
    pub fn newest_file(&self, session: SessionName, tenant: Option<&str>) -> Answer<Option<Vec<u8>>> {
        self.read(|tx| {
            tx.first(
                "SELECT r.raw FROM revisions r JOIN sessions s ON s.id = r.session \
                 WHERE s.kind = $1 AND s.number = $2 AND (CAST($3 AS TEXT) IS NULL OR s.tenant = $3) \
                 ORDER BY s.tenant, r.updated_at DESC, r.digest DESC LIMIT 1",
                args![session.kind.as_str(), session.number, tenant],
                |row| row.get(0),
            )
        })
    }

    /// The number of the last record in a tenant's log.
    pub fn last_record(&self, tenant: &str) -> Answer<i64> {
        let sql = "SELECT number FROM chains WHERE tenant = $1";
        Ok(self.read(|tx| tx.first(sql, args![tenant], |row| row.get(0)))?.unwrap_or(0))
    }

    /// The whole chain of a tenant's log, oldest first.
    pub fn chain(&self, tenant: &str) -> Answer<Vec<LogRow>> {
        let sql = "SELECT number, record, content, hash FROM log WHERE tenant = $1 ORDER BY number";
        self.read(|tx| tx.query(sql, args![tenant], log_row))
    }

    /// The bytes of a delivery's message; none where it has none.
    pub fn message(&self, id: DeliveryId) -> Answer<Option<Vec<u8>>> {
        let sql = "SELECT m.head, CASE WHEN m.tail IS NOT NULL THEN r.raw END, m.tail FROM messages m JOIN deliveries d ON d.id = m.delivery \
                   JOIN revisions r ON r.id = d.revision WHERE m.delivery = $1";
        self.read(|tx| {
            tx.first(sql, args![id.0], |row| Ok(join_attachment(row.get(0)?, row.get(1)?, row.get(2)?)))
        })
    }

    /// The files in quarantine, oldest first.
    pub fn quarantined(&self, tenant: Option<&str>) -> Answer<Vec<QuarantineRow>> {
        let sql = "SELECT id, tenant, source, at, reason, CAST(length(raw) AS BIGINT) FROM quarantine \
                   WHERE CAST($1 AS TEXT) IS NULL OR tenant = $1 ORDER BY id";
        self.read(|tx| {
            tx.query(sql, args![tenant], |row| {
                Ok(QuarantineRow {
                    id: row.get(0)?,
                    tenant: row.get(1)?,
                    source: row.get(2)?,
                    at: moment(row, 3)?,
                    reason: row.get(4)?,
                    octets: row.number(5)?,
                })
            })
        })
    }

    /// The bytes of one quarantined file.
    pub fn quarantined_bytes(&self, id: i64) -> Answer<Option<Vec<u8>>> {
        self.read(|tx| tx.first("SELECT raw FROM quarantine WHERE id = $1", args![id], |row| row.get(0)))
    }

    /// The files of a tenant's folder that are dealt with, each with the stamp it had then.
    pub fn noted_files(&self, tenant: &str, mut each: impl FnMut(String, String) + Send) -> Answer<()> {
        let sql = "SELECT path, stamp FROM files WHERE tenant = $1";
        self.read(|tx| {
            tx.query(sql, args![tenant], |row| {
                each(row.get(0)?, row.get(1)?);
                Ok(())
            })
            .map(drop)
        })
    }
}

/// The most mails of one session's story.
const MOST_INBOUNDS: u32 = 1000;

const REVISIONS: &str =
    "SELECT updated_at, digest, source, accepted_at FROM revisions WHERE session = $1 ORDER BY id";
/// Those that have ended, and the one that a delivery is in the midst of.
const ATTEMPTS: &str = "SELECT a.delivery, a.number, a.began_at, a.ended_at, a.outcome, a.relay, a.tls, a.stage, a.code, \
    a.enhanced, a.answer FROM attempts a JOIN deliveries d ON d.id = a.delivery \
    WHERE d.session = $1 AND a.ended_at IS NOT NULL \
    UNION ALL SELECT id, attempts, changed_at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM deliveries \
    WHERE session = $1 AND state = 'sending' ORDER BY 1, 2";
const RECORDS: &str = "SELECT number, record, content, hash FROM log WHERE session = $1 ORDER BY number";

fn revision(row: &Row<'_>) -> Result<RevisionRow> {
    Ok(RevisionRow {
        updated_at: moment(row, 0)?,
        digest: row.digest(1)?,
        source: row.get(2)?,
        accepted_at: moment(row, 3)?,
    })
}

fn attempt(row: &Row<'_>) -> Result<AttemptRow> {
    let code: Option<i64> = row.get(8)?;
    Ok(AttemptRow {
        delivery: DeliveryId(row.get(0)?),
        number: row.number(1)?,
        began_at: moment(row, 2)?,
        ended_at: optional_moment(row, 3)?,
        outcome: row.get(4)?,
        relay: row.get(5)?,
        tls: row.get(6)?,
        stage: row.get(7)?,
        code: code.and_then(|code| u16::try_from(code).ok()),
        enhanced: row.get(9)?,
        answer: row.get(10)?,
    })
}

fn log_row(row: &Row<'_>) -> Result<LogRow> {
    Ok(LogRow { number: row.get(0)?, record: row.get(1)?, content: row.get(2)?, hash: row.digest(3)? })
}

/// The conditions of a question, and their values.
#[derive(Default)]
struct Where<'f> {
    conditions: Vec<String>,
    values: Vec<Arg<'f>>,
}

impl<'f> Where<'f> {
    /// The column holds one of these; anything where there are none.
    fn among(&mut self, column: &str, wanted: impl Iterator<Item = Arg<'f>>) {
        let from = self.values.len();
        self.values.extend(wanted);
        let places: Vec<String> = (from + 1..=self.values.len()).map(|at| format!("${at}")).collect();
        if !places.is_empty() {
            self.conditions.push(format!("{column} IN ({})", places.join(", ")));
        }
    }
}

/// The deliveries that a filter chooses, oldest first; with `most`, the newest of them.
pub(super) fn list(tx: &Tx<'_>, filter: &Filter) -> Result<Vec<DeliveryRow>> {
    let mut chosen = Where::default();
    chosen.among("d.id", filter.ids.iter().map(|id| Arg::Integer(id.0)));
    chosen.among("d.tenant", filter.tenant.iter().map(Arg::from));
    chosen.among("s.kind", filter.session.iter().map(|session| Arg::Text(session.kind.as_str())));
    chosen.among("s.number", filter.session.iter().map(|session| Arg::from(session.number)));
    chosen.among("d.ticket", filter.ticket.iter().map(Arg::from));
    chosen.among("d.target", filter.recipient.iter().map(Arg::from));
    chosen.among("d.channel", filter.channel.iter().map(|channel| Arg::Text(channel.as_str())));
    chosen.among("d.instead_of", filter.instead_of.iter().map(|id| Arg::Integer(id.0)));
    chosen.among("d.state", filter.states.iter().map(|state| Arg::Text(state.as_str())));
    let over = [State::Accepted, State::Superseded, State::Cancelled];
    if !filter.states.is_empty() && !filter.states.iter().any(|state| over.contains(state)) {
        chosen.conditions.push(UNSETTLED.to_owned());
    }
    if let Some(since) = filter.since {
        chosen.values.push(Arg::from(since));
        chosen.conditions.push(format!("d.changed_at >= ${}", chosen.values.len()));
    }
    if let Some((tenant, number)) = &filter.told_after {
        chosen.values.extend([Arg::from(tenant), Arg::from(*number)]);
        let (tenant, number) = (chosen.values.len() - 1, chosen.values.len());
        let told = format!("SELECT delivery FROM log WHERE tenant = ${tenant} AND number > ${number}");
        chosen.conditions.push(format!("d.id IN ({told})"));
    }
    let Where { mut conditions, values } = chosen;
    if conditions.is_empty() {
        conditions.push("1 = 1".to_owned());
    }
    let conditions = conditions.join(" AND ");
    let most = filter.most.map_or_else(String::new, |most| format!("LIMIT {most}"));
    let sql = format!(
        "SELECT d.id, d.tenant, s.kind, s.number, d.ticket, d.target, d.message_id, d.state, d.reason, d.due, d.attempts, \
         d.created_at, d.changed_at, d.channel, d.fallback, d.instead_of FROM deliveries d JOIN sessions s ON s.id = d.session WHERE {conditions} \
         ORDER BY d.id DESC {most}"
    );
    let mut rows = tx.query(&sql, &values, delivery)?;
    rows.reverse();
    Ok(rows)
}

fn delivery(row: &Row<'_>) -> Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: DeliveryId(row.get(0)?),
        tenant: row.get(1)?,
        session: name(row, 2)?,
        ticket: row.get(4)?,
        recipient: row.get(5)?,
        message_id: row.get(6)?,
        state: row.word(7)?,
        reason: row.get(8)?,
        due: optional_moment(row, 9)?,
        attempts: row.number(10)?,
        created_at: moment(row, 11)?,
        changed_at: moment(row, 12)?,
        channel: row.word(13)?,
        fallback: row.get::<Option<String>>(14)?.and_then(|word| word.parse().ok()),
        instead_of: row.get::<Option<i64>>(15)?.map(DeliveryId),
    })
}
