//! Questions about mails that came back.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::engine::{Arg, Result, Row, Tx, args};
use super::{Scope, Store, StoreError, moment, name};
use crate::classify::verdict::Verdict;
use crate::ids::{DeliveryId, InboundId, SessionName};

/// Which mails; what is not given does not matter.
#[derive(Debug, Clone, Default)]
pub struct VerdictFilter {
    /// This number.
    pub id: Option<InboundId>,
    /// Judged, with numbers above this one, the lowest first; without it the newest are chosen.
    pub after: Option<InboundId>,
    /// Judged to be this.
    pub kind: Option<String>,
    /// Without a delivery.
    pub unmatched: bool,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// About this session of that tenant.
    pub session: Option<SessionName>,
    /// The most rows.
    pub most: u32,
}

/// A mail that came back, with its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictRow {
    /// Its number.
    pub id: InboundId,
    /// The mailbox that it came from.
    pub mailbox: String,
    /// The envelope's sender where it is known; empty for the null reverse-path.
    pub sender: Option<String>,
    /// The envelope's recipient where it is known.
    pub recipient: Option<String>,
    /// When it was stored.
    pub arrived_at: Timestamp,
    /// Whose delivery it is about; this and the next three are none where nothing ties it to one.
    pub tenant: Option<String>,
    /// About which session.
    pub session: Option<SessionName>,
    /// About which delivery.
    pub delivery: Option<DeliveryId>,
    /// By what proof.
    pub proof: Option<String>,
    /// What it was judged to be; none before it was judged.
    pub kind: Option<String>,
    /// By which rule.
    pub rule: Option<String>,
    /// The whole verdict.
    pub verdict: Value,
    /// What it was judged by.
    pub evidence: Value,
    /// What followed: a word and a detail each.
    pub reactions: Value,
}

impl VerdictRow {
    /// Everything, for programs.
    pub fn as_json(&self) -> Value {
        json!({
            "id": self.id.0,
            "mailbox": self.mailbox,
            "sender": self.sender,
            "recipient": self.recipient,
            "arrived_at": self.arrived_at.to_string(),
            "tenant": self.tenant,
            "session": self.session.map(|session| session.to_string()),
            "delivery": self.delivery.map(|id| id.0),
            "proof": self.proof,
            "verdict": self.verdict,
            "evidence": self.evidence,
            "reactions": self.reactions,
        })
    }
}

/// An address that nothing goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedRow {
    /// Whose.
    pub tenant: String,
    /// The address in small letters.
    pub address: String,
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

type Answer<T> = std::result::Result<T, StoreError>;

impl Store {
    /// The mails that a filter chooses, oldest first.
    pub fn verdicts(&self, filter: &VerdictFilter) -> Answer<Vec<VerdictRow>> {
        self.read(|tx| verdicts(tx, filter))
    }

    /// Judged mails with numbers above one, the lowest first.
    pub fn judged_after(&self, after: InboundId, most: u32) -> Answer<Vec<VerdictRow>> {
        let filter = VerdictFilter { after: Some(after), most, ..VerdictFilter::default() };
        self.verdicts(&filter)
    }

    /// The newest deliveries to the addresses of a verdict: a hint, and no proof.
    pub fn recent_to(&self, verdict: &Value) -> Answer<Vec<(DeliveryId, SessionName)>> {
        let addresses: Vec<&str> = verdict["recipients"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|recipient| recipient["address"].as_str())
            .take(3)
            .collect();
        self.read(|tx| {
            let mut found = Vec::new();
            for address in addresses {
                let sql = "SELECT d.id, s.kind, s.number FROM deliveries d JOIN sessions s ON s.id = d.session \
                           WHERE d.target = $1 ORDER BY d.id DESC LIMIT 3";
                found.extend(tx.query(sql, args![address], |row| Ok((DeliveryId(row.get(0)?), name(row, 1)?)))?);
            }
            Ok(found)
        })
    }

    /// Keeps another verdict on a mail. What followed the old one stays.
    pub async fn rejudge(&self, id: InboundId, verdict: Verdict) -> Answer<()> {
        self.write(Scope::Nobody, move |tx| {
            let sql = "UPDATE verdicts SET kind = $1, rule = $2, verdict = $3 WHERE inbound = $4";
            let whole = serde_json::to_string(&verdict).unwrap_or_default();
            tx.execute(sql, args![verdict.kind.as_str(), &verdict.rule, &whole, id.0])
        })
        .await
    }

    /// The addresses that nothing goes to.
    pub fn stopped(&self) -> Answer<Vec<StoppedRow>> {
        self.read(|tx| {
            tx.query("SELECT tenant, address, at, reason FROM stopped ORDER BY tenant, address", &[], |row| {
                let (tenant, address) = (row.get(0)?, row.get(1)?);
                Ok(StoppedRow { tenant, address, at: moment(row, 2)?, reason: row.get(3)? })
            })
        })
    }
}

pub(super) fn verdicts(tx: &Tx<'_>, filter: &VerdictFilter) -> Result<Vec<VerdictRow>> {
    let given = [
        ("i.id =", filter.id.map(|id| Arg::Integer(id.0))),
        ("i.id >", filter.after.map(|id| Arg::Integer(id.0))),
        ("v.kind =", filter.kind.as_deref().map(Arg::Text)),
        ("v.tenant =", filter.tenant.as_deref().map(Arg::Text)),
        ("s.kind =", filter.session.map(|session| Arg::Text(session.kind.as_str()))),
        ("s.number =", filter.session.map(|session| Arg::from(session.number))),
    ];
    let mut values = Vec::new();
    let mut conditions = vec!["i.state <> 'quarantined'".to_owned()];
    for (column, value) in given {
        let Some(value) = value else { continue };
        values.push(value);
        conditions.push(format!("{column} ${}", values.len()));
    }
    if filter.unmatched {
        conditions.push("v.delivery IS NULL".to_owned());
    }
    if filter.unmatched || filter.after.is_some() {
        conditions.push("v.inbound IS NOT NULL".to_owned());
    }
    let order = if filter.after.is_some() { "ASC" } else { "DESC" };
    let sql = format!(
        "SELECT i.id, i.mailbox, i.arrived_at, v.tenant, s.kind, s.number, v.delivery, v.proof, v.kind, v.rule, \
         v.verdict, v.evidence, v.reactions, i.sender, i.recipient FROM inbounds i LEFT JOIN verdicts v ON v.inbound = i.id \
         LEFT JOIN sessions s ON s.id = v.session WHERE {} ORDER BY i.id {order} LIMIT {}",
        conditions.join(" AND "),
        filter.most
    );
    let mut rows = tx.query(&sql, &values, verdict)?;
    if filter.after.is_none() {
        rows.reverse();
    }
    Ok(rows)
}

fn verdict(row: &Row<'_>) -> Result<VerdictRow> {
    let json = |at| -> Result<Value> {
        let text: Option<String> = row.get(at)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    };
    let has_session = row.get::<Option<String>>(4)?.is_some();
    Ok(VerdictRow {
        id: InboundId(row.get(0)?),
        mailbox: row.get(1)?,
        sender: row.get(13)?,
        recipient: row.get(14)?,
        arrived_at: moment(row, 2)?,
        tenant: row.get(3)?,
        session: has_session.then(|| name(row, 4)).transpose()?,
        delivery: row.get::<Option<i64>>(6)?.map(DeliveryId),
        proof: row.get(7)?,
        kind: row.get(8)?,
        rule: row.get(9)?,
        verdict: json(10)?,
        evidence: json(11)?,
        reactions: json(12)?,
    })
}
