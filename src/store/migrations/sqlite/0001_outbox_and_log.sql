-- Moments are milliseconds since 1970-01-01 UTC. Digests are SHA-256.

-- What the store keeps for itself, such as the key of its tokens.
CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  instance TEXT NOT NULL,
  kind TEXT NOT NULL,
  number INTEGER NOT NULL,
  -- The newest revision's ticket.
  ticket TEXT,
  ticket_url TEXT,
  -- Salts the digests of this session's log contents, so that erasing it makes them unguessable.
  salt BLOB NOT NULL,
  UNIQUE (tenant, kind, number, instance)
) STRICT;
CREATE INDEX sessions_by_ticket ON sessions (ticket) WHERE ticket IS NOT NULL;

CREATE TABLE revisions (
  id INTEGER PRIMARY KEY,
  session INTEGER NOT NULL REFERENCES sessions (id),
  updated_at INTEGER NOT NULL,
  digest BLOB NOT NULL,
  source TEXT NOT NULL,
  accepted_at INTEGER NOT NULL,
  raw BLOB NOT NULL
) STRICT;
CREATE INDEX revisions_by_session ON revisions (session);

CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  session INTEGER NOT NULL REFERENCES sessions (id),
  revision INTEGER NOT NULL REFERENCES revisions (id),
  channel TEXT NOT NULL,
  ticket TEXT,
  -- The recipient; none for a delivery that was held before it could be composed.
  target TEXT,
  message_id TEXT,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  -- When a sender may take it; none means that no sender may.
  due INTEGER,
  -- Counts the leases; who finishes must hold the last one.
  lease INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX deliveries_by_session ON deliveries (session);
CREATE INDEX deliveries_due ON deliveries (tenant, due) WHERE due IS NOT NULL;
-- Written without IN, for which SQLite would make a temporary table at every change of a delivery.
CREATE INDEX deliveries_unsettled ON deliveries (tenant, state)
  WHERE state <> 'accepted' AND state <> 'superseded' AND state <> 'cancelled';

-- Apart from deliveries, so that a change of state does not rewrite the bytes.
CREATE TABLE messages (
  delivery INTEGER PRIMARY KEY REFERENCES deliveries (id),
  envelope_from TEXT NOT NULL,
  wire BLOB NOT NULL
) STRICT;

-- The attempts that have ended. Of one that has not, the delivery in state sending tells since when. A row without an
-- outcome is such a one of an earlier program.
CREATE TABLE attempts (
  delivery INTEGER NOT NULL REFERENCES deliveries (id),
  number INTEGER NOT NULL,
  began_at INTEGER NOT NULL,
  ended_at INTEGER,
  outcome TEXT,
  relay TEXT,
  tls TEXT,
  stage TEXT,
  code INTEGER,
  answer TEXT,
  PRIMARY KEY (delivery, number)
) STRICT, WITHOUT ROWID;

-- The sent-mail log: append-only, one hash chain a tenant. The record is chained; the content stands beside it
-- and is bound to it by a salted digest.
CREATE TABLE log (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  number INTEGER NOT NULL,
  session INTEGER,
  delivery INTEGER,
  record TEXT NOT NULL,
  content TEXT,
  hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_chain ON log (tenant, number);
CREATE INDEX log_by_session ON log (session) WHERE session IS NOT NULL;

CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  source TEXT NOT NULL,
  at INTEGER NOT NULL,
  reason TEXT NOT NULL,
  digest BLOB NOT NULL,
  raw BLOB NOT NULL,
  UNIQUE (tenant, source, digest)
) STRICT;

-- The files of the watched folders that are dealt with, by what a look at the folder shows of them.
CREATE TABLE files (
  tenant TEXT NOT NULL,
  path TEXT NOT NULL,
  stamp TEXT NOT NULL,
  PRIMARY KEY (tenant, path)
) STRICT, WITHOUT ROWID;
