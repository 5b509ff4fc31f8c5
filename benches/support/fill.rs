//! A store with any number of rows, of the form that the program writes; only revisions and messages are small.

use std::path::Path;

use aftercall::config::StorePlace;
use aftercall::ids::{DeliveryId, Digest, Kind, SessionName};
use aftercall::log::{Entry, Event, FIRST, seal};
use aftercall::store::Store;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use crate::support::Result;

/// The tenant and its instance.
const TENANT: &str = "bench";
/// When everything in a filled store happened: 2026-01-10.
const MOMENT: i64 = 1_768_000_000_000;
/// Sessions in one transaction.
const AT_ONCE: u64 = 100_000;

/// A store that is being filled.
pub(crate) struct Filling {
    connection: Connection,
    at: Timestamp,
    number: i64,
    hash: Digest,
}

impl Filling {
    /// Opens a store, and makes it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        drop(Store::open(&StorePlace::File(path.to_owned()))?);
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.pragma_update(None, "cache_size", -200_000)?;
        connection.set_prepared_statement_cache_capacity(32);
        let end = connection
            .query_row("SELECT number, hash FROM chains WHERE tenant = ?", [TENANT], |row| {
                Ok((row.get(0)?, Digest(row.get(1)?)))
            })
            .optional()?;
        let (number, hash) = end.unwrap_or((0, FIRST));
        Ok(Self { connection, at: Timestamp::from_millisecond(MOMENT)?, number, hash })
    }

    /// Puts in calls with these numbers: each was sent with the first attempt, or is due and was not tried yet.
    pub(crate) fn put(&mut self, numbers: std::ops::Range<u64>, are_sent: bool) -> Result<()> {
        for first in numbers.clone().step_by(usize::try_from(AT_ONCE)?) {
            self.connection.execute_batch("BEGIN")?;
            for number in first..numbers.end.min(first + AT_ONCE) {
                self.session(number, are_sent)?;
            }
            let end = "INSERT OR REPLACE INTO chains VALUES (?, ?, ?)";
            self.run(end, params![TENANT, self.number, &self.hash.0[..]])?;
            self.connection.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    fn run(&self, statement: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<i64> {
        self.connection.prepare_cached(statement)?.execute(values)?;
        Ok(self.connection.last_insert_rowid())
    }

    fn session(&mut self, number: u64, is_sent: bool) -> Result<()> {
        let name = SessionName { kind: Kind::Call, number };
        let (ticket, raw) = (format!("{}", number % 1_000_000), format!("{{\"id\": {number}}}"));
        let digest = Digest::of(raw.as_bytes());
        let salt = &digest.0[..16];
        let session = self.run(
            "INSERT INTO sessions (tenant, instance, kind, number, ticket, salt) VALUES (?, ?, 'call', ?, ?, ?)",
            params![TENANT, TENANT, number, ticket, salt],
        )?;
        let source = format!("/var/spool/sessions/{name}.json");
        let revision = self.run(
            "INSERT INTO revisions (session, updated_at, digest, source, accepted_at, raw) VALUES (?, ?, ?, ?, ?, ?)",
            params![session, MOMENT, &digest.0[..], source, MOMENT, raw.as_bytes()],
        )?;
        self.run("INSERT INTO files (tenant, path, stamp) VALUES (?, ?, ?)", params![TENANT, source, raw])?;
        let message_id = format!("{digest}@example.com");
        let (state, reason, due, attempts) = if is_sent {
            ("accepted", "250 2.0.0 queued", None, 1)
        } else {
            ("pending", "", Some(MOMENT), 0)
        };
        let delivery = self.run(
            "INSERT INTO deliveries (tenant, session, revision, channel, ticket, target, message_id, state, reason, due, \
             lease, attempts, created_at, changed_at) VALUES (?, ?, ?, 'email', ?, 'crm@example.com', ?, ?, ?, ?, ?, ?, ?, ?)",
            params![TENANT, session, revision, ticket, message_id, state, reason, due, attempts, attempts, MOMENT, MOMENT],
        )?;
        let message = format!(
            "From: bridge@example.com\r\nTo: crm@example.com\r\nMessage-ID: <{message_id}>\r\n\r\nCall {number}\r\n"
        );
        self.run(
            "INSERT INTO messages (delivery, envelope_from, head) VALUES (?, 'bridge@example.com', ?)",
            params![delivery, message.as_bytes()],
        )?;
        let plan = json!({ "send_to": "crm@example.com", "from": "bridge@example.com", "message_id": message_id,
            "sha256": digest.to_string(), "due": self.at.to_string(), "hold": null });
        let content = json!({ "revision": digest.to_string(), "updated_at": self.at.to_string(), "source": source,
            "ticket": ticket, "plan": plan });
        self.append(session, delivery, name, salt, Event::Accepted, content)?;
        if is_sent {
            self.attempt(session, delivery, name, salt)?;
        }
        Ok(())
    }

    fn attempt(&mut self, session: i64, delivery: i64, name: SessionName, salt: &[u8]) -> Result<()> {
        let (relay, answer) = ("127.0.0.1:25", "2.0.0 queued");
        self.run(
            "INSERT INTO attempts (delivery, number, began_at, ended_at, outcome, relay, tls, stage, code, enhanced, answer) \
             VALUES (?, 1, ?, ?, 'accepted', ?, NULL, 'message', 250, '2.0.0', ?)",
            params![delivery, MOMENT, MOMENT, relay, answer],
        )?;
        let replies =
            ["mail: 250 2.1.0 ok", "rcpt: 250 2.1.5 ok", "data: 354 go on", "message: 250 2.0.0 queued"];
        let content = json!({ "attempt": 1, "recipient": "crm@example.com", "outcome": "accepted", "relay": relay,
            "tls": null, "stage": "message", "code": 250, "enhanced": "2.0.0", "answer": answer, "replies": replies,
            "state": "accepted" });
        self.append(session, delivery, name, salt, Event::Attempted, content)
    }

    fn append(
        &mut self,
        session: i64,
        delivery: i64,
        name: SessionName,
        salt: &[u8],
        event: Event,
        content: Value,
    ) -> Result<()> {
        let entry =
            Entry { event, at: self.at, session: Some(name), delivery: Some(DeliveryId(delivery)), content };
        self.number += 1;
        let sealed = seal(&entry, TENANT, self.number, &self.hash, salt);
        self.hash = sealed.hash;
        self.run(
            "INSERT INTO log (tenant, number, session, delivery, record, content, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![TENANT, self.number, session, delivery, sealed.record, sealed.content, &sealed.hash.0[..]],
        )?;
        Ok(())
    }
}
