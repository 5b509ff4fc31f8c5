//! The tenants' log chains for the length of one transaction: their ends, and the records that are put behind them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::SessionRow;
use super::engine::{Engine, Foresight, Result, Tx, args};
use crate::ids::{DeliveryId, Digest};
use crate::log::{Entry, FIRST, Sealed, seal};

/// Whose rows a piece of work may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// One tenant's.
    Tenant(String),
    /// Any tenant's.
    All,
    /// Nobody's: only the program's own.
    Nobody,
}

const END: &str = "SELECT tenant, number, hash FROM chains WHERE tenant = $1";
/// The same, and nobody else changes it until the transaction ends.
const LOCKED_END: &str = "SELECT tenant, number, hash FROM chains WHERE tenant = $1 FOR UPDATE";

/// The ends of chains by tenant, and what is not written yet.
#[derive(Default)]
pub(super) struct Chains {
    ends: RefCell<BTreeMap<String, End>>,
    appended: RefCell<Vec<Appended>>,
}

#[derive(Clone, Copy)]
struct End {
    number: i64,
    hash: Digest,
    is_changed: bool,
}

/// A record with its place.
struct Appended {
    tenant: String,
    number: i64,
    session: Option<i64>,
    delivery: Option<DeliveryId>,
    sealed: Sealed,
}

impl Chains {
    /// Reads the ends of all chains that the work may append to, and asks what the work will ask first. On a shared
    /// engine this is what makes tenants' writers wait for each other: the rows stay locked until the transaction ends,
    /// and whatever is asked behind them is answered after they are. They are locked in one order, so that no two
    /// transactions wait for each other in a circle.
    pub(super) fn load(&self, engine: &Engine, scopes: &[Scope], work: &[&Foresight]) -> Result<()> {
        let tx = Tx { engine, chains: self };
        let read = |row: &super::engine::Row<'_>| {
            let end = End { number: row.get(1)?, hash: row.digest(2)?, is_changed: false };
            Ok((row.get::<String>(0)?, end))
        };
        if scopes.contains(&Scope::All) {
            let lock = if engine.is_shared() { " FOR UPDATE" } else { "" };
            let sql = format!("SELECT tenant, number, hash FROM chains ORDER BY tenant{lock}");
            self.ends.borrow_mut().extend(tx.query(&sql, &[], read)?);
            return engine.foresee(work);
        }
        let tenants: BTreeSet<&str> = scopes
            .iter()
            .filter_map(|scope| match scope {
                Scope::Tenant(tenant) => Some(tenant.as_str()),
                Scope::All | Scope::Nobody => None,
            })
            .collect();
        let sql = if engine.is_shared() { LOCKED_END } else { END };
        let ends: Vec<Foresight> =
            tenants.iter().map(|tenant| Foresight::of(sql, args![*tenant], 0)).collect();
        engine.foresee(&ends.iter().chain(work.iter().copied()).collect::<Vec<_>>())?;
        let mut has_new = false;
        for tenant in tenants {
            let mut found = tx.first(sql, args![tenant], read)?;
            if found.is_none() {
                let fresh = "INSERT INTO chains VALUES ($1, 0, $2) ON CONFLICT DO NOTHING";
                tx.execute(fresh, args![tenant, &FIRST])?;
                found = tx.first(sql, args![tenant], read)?;
                has_new = true;
            }
            self.ends.borrow_mut().extend(found);
        }
        // Nothing was locked before what the work asks was answered.
        if has_new { engine.foresee(work) } else { Ok(()) }
    }

    /// Writes the new records, all together, and the new ends.
    pub(super) fn save(&self, engine: &Engine) -> Result<()> {
        let tx = Tx { engine, chains: self };
        let appended = self.appended.take();
        let record = "INSERT INTO log (tenant, number, session, delivery, record, content, hash) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        for one in &appended {
            let (session, delivery) = (one.session, one.delivery.map(|delivery| delivery.0));
            let Sealed { record: text, content, hash } = &one.sealed;
            tx.execute(record, args![&one.tenant, one.number, session, delivery, text, content, hash])?;
        }
        for (tenant, end) in self.ends.borrow().iter().filter(|(_, end)| end.is_changed) {
            let sql = "UPDATE chains SET number = $1, hash = $2 WHERE tenant = $3";
            tx.execute(sql, args![end.number, &end.hash, tenant])?;
        }
        Ok(())
    }
}

/// Puts one entry behind the tenant's chain. It is written when the work of the transaction is done.
pub(super) fn append(tx: &Tx<'_>, tenant: &str, session: Option<&SessionRow>, entry: &Entry) {
    let mut ends = tx.chains.ends.borrow_mut();
    let end = ends.entry(tenant.to_owned()).or_insert(End { number: 0, hash: FIRST, is_changed: false });
    let salt = session.map_or(&[][..], |session| &session.salt);
    let sealed = seal(entry, tenant, end.number + 1, &end.hash, salt);
    *end = End { number: end.number + 1, hash: sealed.hash, is_changed: true };
    tx.chains.appended.borrow_mut().push(Appended {
        tenant: tenant.to_owned(),
        number: end.number,
        session: session.map(|session| session.id),
        delivery: entry.delivery,
        sealed,
    });
}
