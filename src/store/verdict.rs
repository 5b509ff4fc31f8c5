//! Verdicts on mails that came back, and what follows them, each in one transaction: the mail is judged, the log says
//! so, and what was decided is done, or nothing of it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{Placed, insert_delivery, planned_content};
use super::engine::{Result, Tx, args};
use super::notice::{Telling, notice};
use super::{Planned, Scope, SessionRow, Store, StoreError, append, session};
use crate::classify::verdict::Verdict;
use crate::config::tenant::Channel;
use crate::correlate::{Found, Proof};
use crate::crash::{Step, reached};
use crate::ids::{DeliveryId, Digest, InboundId, SessionKey};
use crate::log::{Entry, Event};
use crate::outbox::State;
use crate::react::{About, Reaction};

/// The least time between two notices of one matter.
const QUIET: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// A mail to judge.
#[derive(Debug, Clone)]
pub struct Unjudged {
    /// Its number.
    pub id: InboundId,
    /// The mailbox that it came from.
    pub mailbox: String,
    /// The envelope's recipient, where it is known.
    pub recipient: Option<String>,
    /// Its octets.
    pub raw: Vec<u8>,
}

/// A delivery that a mail is about, with what is needed to make its update again.
#[derive(Debug, Clone)]
pub struct Matched {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Whose session.
    pub key: SessionKey,
    /// For the decision; its ticket is what the session calls it.
    pub about: About,
    /// The ticket's URL.
    pub ticket_url: Option<String>,
    /// The revision's bytes.
    pub raw: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The channel that can take over.
    pub fallback: Option<Channel>,
}

/// A judged mail and what follows.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The mail.
    pub inbound: InboundId,
    /// The delivery that it is about, whose it is, and the proof; none where nothing ties it to one.
    pub about: Option<(String, DeliveryId, Proof)>,
    /// The verdict.
    pub verdict: Verdict,
    /// What it was judged by, for people.
    pub evidence: Value,
    /// What follows.
    pub deeds: Vec<Deed>,
    /// The present.
    pub now: Timestamp,
}

/// One thing that follows.
#[derive(Debug, Clone)]
pub struct Deed {
    /// The word for it.
    pub reaction: &'static str,
    /// Why, or what about.
    pub detail: String,
    /// What is done.
    pub act: Act,
}

impl Deed {
    /// What a reaction is told as, with what is done for it.
    pub fn new(reaction: &Reaction, act: Act) -> Self {
        Self { reaction: reaction.as_str(), detail: reaction.detail().to_owned(), act }
    }
}

/// What is done.
#[derive(Debug, Clone)]
pub enum Act {
    /// Nothing more than to say so.
    Nothing,
    /// The same message goes out again, not before this moment.
    Again(Timestamp),
    /// The same message waits for a person.
    Hold(String),
    /// This goes out in its place.
    Instead(Channel, Box<Planned>),
    /// Nothing more goes to this address, for this reason.
    Stop(String, String),
    /// The session's ticket is this one.
    Ticket(String),
    /// Somebody is told, by all of these.
    Notice(Vec<Telling>),
    /// Somebody is told, unless they were told of this matter lately.
    Alert(Vec<Telling>, String),
}

impl Store {
    /// One mail, judged or not; none where there is none of that number.
    pub async fn inbound(&self, id: InboundId) -> std::result::Result<Option<Unjudged>, StoreError> {
        let sql = "SELECT i.mailbox, i.recipient, m.raw FROM inbounds i JOIN inbound_mails m \
                   ON m.inbound = i.id WHERE i.id = $1";
        self.write(Scope::Nobody, move |tx| {
            tx.first(sql, args![id.0], |row| {
                Ok(Unjudged { id, mailbox: row.get(0)?, recipient: row.get(1)?, raw: row.get(2)? })
            })
        })
        .await
    }

    /// The delivery whose token was found; none where no delivery has it.
    pub async fn find_delivery(&self, found: Found) -> std::result::Result<Option<Matched>, StoreError> {
        self.write(Scope::Tenant(found.session.tenant.clone()), move |tx| {
            let key = &found.session;
            // Mails that went out again have the same token: the newest that was tried is the one that came back.
            let sql = "SELECT d.id, d.message_id FROM deliveries d JOIN sessions s ON s.id = d.session \
                       WHERE s.tenant = $1 AND s.kind = $2 AND s.number = $3 AND s.instance = $4 \
                       ORDER BY CASE WHEN d.attempts > 0 THEN 0 ELSE 1 END, d.id DESC";
            let values = args![&key.tenant, key.name.kind.as_str(), key.name.number, &key.instance];
            let read = |row: &super::Row<'_>| Ok((DeliveryId(row.get(0)?), row.get::<Option<String>>(1)?));
            let deliveries = tx.query(sql, values, read)?;
            let has_token = |id: &Option<String>| id.as_ref().is_some_and(|id| id.starts_with(&found.body));
            match deliveries.into_iter().find(|(_, id)| has_token(id)) {
                Some((delivery, _)) => matched(tx, delivery),
                None => Ok(None),
            }
        })
        .await
    }

    /// A delivery by its number.
    pub async fn delivery_to_match(
        &self,
        id: DeliveryId,
    ) -> std::result::Result<Option<Matched>, StoreError> {
        self.write(Scope::Nobody, move |tx| matched(tx, id)).await
    }

    /// Keeps a verdict and does what follows. False, and nothing is done, when the mail was judged before.
    pub async fn judge(&self, judged: Judged) -> std::result::Result<bool, StoreError> {
        let scope = judged.about.as_ref().map_or(Scope::Nobody, |(tenant, ..)| Scope::Tenant(tenant.clone()));
        let is_judged = self.write(scope, move |tx| judge(tx, &judged)).await?;
        reached(Step::Judged);
        Ok(is_judged)
    }

    /// Lets mails go to an address again. False when nothing had stopped them.
    pub async fn lift(
        &self,
        tenant: String,
        address: String,
        now: Timestamp,
    ) -> std::result::Result<bool, StoreError> {
        self.write(Scope::Tenant(tenant.clone()), move |tx| {
            let address = address.to_ascii_lowercase();
            let known = "SELECT address FROM stopped WHERE tenant = $1 AND address = $2";
            if !tx.any(known, args![&tenant, &address])? {
                return Ok(false);
            }
            tx.execute("DELETE FROM stopped WHERE tenant = $1 AND address = $2", args![&tenant, &address])?;
            let content = json!({ "address": address });
            let entry = Entry { event: Event::Lifted, at: now, session: None, delivery: None, content };
            append(tx, &tenant, None, &entry);
            Ok(true)
        })
        .await
    }
}

/// The addresses of a tenant that nothing goes to, with the reason.
pub(super) fn stopped(tx: &Tx<'_>, tenant: &str) -> Result<Vec<(String, String)>> {
    let sql = "SELECT address, reason FROM stopped WHERE tenant = $1";
    tx.query(sql, args![tenant], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn matched(tx: &Tx<'_>, delivery: DeliveryId) -> Result<Option<Matched>> {
    let sql = "SELECT d.tenant, s.instance, s.kind, s.number, d.ticket, d.target, d.fallback, d.notice, \
               (SELECT count(*) FROM messages m WHERE m.delivery = d.id AND m.tail IS NOT NULL), \
               (SELECT count(*) FROM deliveries o WHERE o.session = d.session AND o.message_id = d.message_id), \
               (SELECT count(*) FROM deliveries o WHERE o.instead_of = d.id), \
               (SELECT count(*) FROM deliveries o WHERE o.session = d.session AND o.revision > d.revision \
                AND o.notice IS NULL AND o.state NOT IN ('cancelled', 'rejected', 'expired')), r.raw, r.digest, s.ticket_url \
               FROM deliveries d JOIN sessions s ON s.id = d.session JOIN revisions r ON r.id = d.revision \
               WHERE d.id = $1";
    tx.first(sql, args![delivery.0], |row| {
        let fallback: Option<String> = row.get(6)?;
        let count = |at| -> Result<u32> { row.number(at) };
        let about = About {
            ticket: row.get(4)?,
            recipient: row.get::<Option<String>>(5)?.unwrap_or_default(),
            has_attachment: count(8)? > 0,
            has_other_channel: fallback.is_some(),
            resent: count(9)?.saturating_sub(1),
            is_settled: count(10)? > 0,
            is_old: count(11)? > 0,
            is_notice: row.get::<Option<i64>>(7)?.is_some(),
        };
        let key = SessionKey { tenant: row.get(0)?, instance: row.get(1)?, name: super::name(row, 2)? };
        let fallback = fallback.map(|_| row.word(6)).transpose()?;
        Ok(Matched {
            delivery,
            key,
            about,
            raw: row.get(12)?,
            digest: row.digest(13)?,
            ticket_url: row.get(14)?,
            fallback,
        })
    })
}

fn judge(tx: &Tx<'_>, judged: &Judged) -> Result<bool> {
    let Judged { inbound, about, verdict, evidence, deeds, now } = judged;
    let by_hand = matches!(about, Some((.., Proof::Hand)));
    let open = "SELECT id FROM inbounds WHERE id = $1 AND state = 'new'";
    if !by_hand && !tx.any(open, args![inbound.0])? {
        return Ok(false);
    }
    tx.execute("UPDATE inbounds SET state = 'judged' WHERE id = $1", args![inbound.0])?;
    let place = match about {
        Some((tenant, delivery, proof)) => place(tx, tenant, *delivery)?.map(|place| (place, *proof)),
        None => None,
    };
    let reactions: Vec<Value> = deeds.iter().map(|deed| json!([deed.reaction, deed.detail])).collect();
    tx.execute("DELETE FROM verdicts WHERE inbound = $1", args![inbound.0])?;
    tx.execute(
        "INSERT INTO verdicts (inbound, tenant, session, delivery, proof, kind, rule, verdict, evidence, reactions, judged_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        args![
            inbound.0,
            place.as_ref().map(|(place, _)| &place.tenant),
            place.as_ref().map(|(place, _)| place.session.id),
            place.as_ref().map(|(place, _)| place.delivery.0),
            place.as_ref().map(|(_, proof)| proof.as_str()),
            verdict.kind.as_str(),
            &verdict.rule,
            &serde_json::to_string(verdict).unwrap_or_default(),
            &evidence.to_string(),
            &Value::from(reactions).to_string(),
            *now
        ],
    )?;
    let Some((place, proof)) = place else { return Ok(true) };
    let content = json!({
        "inbound": inbound.0,
        "verdict": verdict,
        "proof": proof.as_str(),
        "evidence": evidence,
    });
    place.append(tx, Event::Received, content, *now);
    for deed in deeds {
        let by = act(tx, &place, *inbound, &deed.act, *now)?;
        let plan =
            if let Act::Instead(_, planned) = &deed.act { planned_content(planned) } else { Value::Null };
        // One record for each delivery that came of it, and one where none did.
        for at in 0..by.len().max(1) {
            let content = json!({
                "inbound": inbound.0,
                "reaction": deed.reaction,
                "detail": deed.detail,
                "by": by.get(at).map(|id| id.0),
                "plan": plan,
            });
            place.append(tx, Event::Reacted, content, *now);
        }
    }
    reached(Step::JudgeWritten);
    Ok(true)
}

/// The delivery that a mail is about, with all that stands around it.
pub(super) struct Place {
    pub(super) tenant: String,
    pub(super) session: SessionRow,
    delivery: DeliveryId,
    pub(super) revision: i64,
    ticket: Option<String>,
}

impl Place {
    fn append(&self, tx: &Tx<'_>, event: Event, content: Value, at: Timestamp) {
        let (session, delivery) = (Some(self.session.name), Some(self.delivery));
        append(tx, &self.tenant, Some(&self.session), &Entry { event, at, session, delivery, content });
    }
}

fn place(tx: &Tx<'_>, tenant: &str, delivery: DeliveryId) -> Result<Option<Place>> {
    let sql = "SELECT s.id, s.kind, s.number, s.salt, d.revision, d.ticket FROM deliveries d \
               JOIN sessions s ON s.id = d.session WHERE d.id = $1 AND d.tenant = $2";
    tx.first(sql, args![delivery.0, tenant], |row| {
        let (session, revision, ticket) = (session(row, 0)?, row.get(4)?, row.get(5)?);
        Ok(Place { tenant: tenant.to_owned(), session, delivery, revision, ticket })
    })
}

/// Does one thing, and says which deliveries came of it.
fn act(tx: &Tx<'_>, place: &Place, inbound: InboundId, act: &Act, now: Timestamp) -> Result<Vec<DeliveryId>> {
    let tell = |notices: &[Telling]| {
        notices.iter().map(|telling| notice(tx, place, inbound, telling, now)).collect()
    };
    let one = |made: Result<Option<DeliveryId>>| Ok(made?.into_iter().collect());
    // Another report about the same delivery may have come at the same moment.
    let is_taken_over =
        || tx.any("SELECT id FROM deliveries WHERE instead_of = $1 LIMIT 1", args![place.delivery.0]);
    match act {
        Act::Again(_) | Act::Hold(_) | Act::Instead(..) if is_taken_over()? => Ok(Vec::new()),
        Act::Nothing => Ok(Vec::new()),
        Act::Again(due) => {
            one(again(tx, place, State::Pending, "sent again after it came back", Some(*due), now))
        }
        Act::Hold(reason) => one(again(tx, place, State::Held, reason, None, now)),
        Act::Instead(channel, planned) => one(instead(tx, place, *channel, planned, now)),
        Act::Stop(address, reason) => {
            let stop = "INSERT INTO stopped (tenant, address, at, reason) VALUES ($1, $2, $3, $4) \
                        ON CONFLICT (tenant, address) DO NOTHING";
            tx.execute(stop, args![&place.tenant, address, now, reason])?;
            Ok(Vec::new())
        }
        Act::Ticket(ticket) => {
            let learn =
                "UPDATE sessions SET learned_ticket = $1, ticket = coalesce(ticket, $1) WHERE id = $2";
            tx.execute(learn, args![ticket, place.session.id])?;
            Ok(Vec::new())
        }
        Act::Notice(notices) => tell(notices),
        Act::Alert(notices, matter) => {
            let since = now.saturating_sub(QUIET).unwrap_or(now);
            let told = "SELECT at FROM alerts WHERE tenant = $1 AND matter = $2 AND at > $3";
            if tx.any(told, args![&place.tenant, matter, since])? {
                return Ok(Vec::new());
            }
            let remember = "INSERT INTO alerts (tenant, matter, at) VALUES ($1, $2, $3) \
                        ON CONFLICT (tenant, matter) DO UPDATE SET at = excluded.at";
            tx.execute(remember, args![&place.tenant, matter, now])?;
            tell(notices)
        }
    }
}

/// The same message once more, with the same octets and the same Message-ID.
fn again(
    tx: &Tx<'_>,
    place: &Place,
    state: State,
    reason: &str,
    due: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<DeliveryId>> {
    let id = tx.insert(
        "INSERT INTO deliveries (id, tenant, session, revision, channel, ticket, target, message_id, state, reason, due, \
         instead_of, created_at, changed_at) \
         SELECT CAST($1 AS BIGINT), tenant, session, revision, channel, ticket, target, message_id, CAST($2 AS TEXT), \
         CAST($3 AS TEXT), CAST($4 AS BIGINT), id, CAST($5 AS BIGINT), CAST($5 AS BIGINT) \
         FROM deliveries WHERE id = $6",
        args![state.as_str(), reason, due, now, place.delivery.0],
    )?;
    let copy = "INSERT INTO messages (delivery, envelope_from, head, tail) \
                SELECT CAST($1 AS BIGINT), envelope_from, head, tail FROM messages WHERE delivery = $2";
    tx.execute(copy, args![id, place.delivery.0])?;
    Ok(Some(DeliveryId(id)))
}

fn instead(
    tx: &Tx<'_>,
    place: &Place,
    channel: Channel,
    planned: &Planned,
    now: Timestamp,
) -> Result<Option<DeliveryId>> {
    let raw = tx.first("SELECT raw FROM revisions WHERE id = $1", args![place.revision], |row| {
        row.get::<Vec<u8>>(0)
    })?;
    // From here on there is no other way left.
    tx.execute("UPDATE deliveries SET fallback = NULL WHERE id = $1", args![place.delivery.0])?;
    let placed = Placed {
        tenant: &place.tenant,
        session: place.session.id,
        revision: place.revision,
        ticket: place.ticket.as_ref(),
        channel,
        fallback: None,
        instead_of: Some(place.delivery),
        now,
    };
    insert_delivery(tx, &placed, planned, &raw.unwrap_or_default())
}
