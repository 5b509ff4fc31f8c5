-- One sequence for all ids; an instance takes them in blocks.
CREATE SEQUENCE ids;

-- Moments are milliseconds since 1970-01-01 UTC. Digests are SHA-256.

-- What the store keeps for itself, such as the key of its tokens.
CREATE TABLE settings (name TEXT PRIMARY KEY, value BYTEA NOT NULL);

CREATE TABLE sessions (
  id BIGINT PRIMARY KEY,
  tenant TEXT NOT NULL,
  instance TEXT NOT NULL,
  kind TEXT NOT NULL,
  number BIGINT NOT NULL,
  -- The newest revision's ticket.
  ticket TEXT,
  ticket_url TEXT,
  -- Salts the digests of this session's log contents, so that erasing it makes them unguessable.
  salt BYTEA NOT NULL,
  UNIQUE (tenant, kind, number, instance)
);
CREATE INDEX sessions_by_ticket ON sessions (ticket) WHERE ticket IS NOT NULL;

CREATE TABLE revisions (
  id BIGINT PRIMARY KEY,
  session BIGINT NOT NULL REFERENCES sessions (id),
  updated_at BIGINT NOT NULL,
  digest BYTEA NOT NULL,
  source TEXT NOT NULL,
  accepted_at BIGINT NOT NULL,
  raw BYTEA NOT NULL
);
CREATE INDEX revisions_by_session ON revisions (session);

CREATE TABLE deliveries (
  id BIGINT PRIMARY KEY,
  tenant TEXT NOT NULL,
  session BIGINT NOT NULL REFERENCES sessions (id),
  revision BIGINT NOT NULL REFERENCES revisions (id),
  channel TEXT NOT NULL,
  ticket TEXT,
  -- The recipient; none for a delivery that was held before it could be composed.
  target TEXT,
  message_id TEXT,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  -- When a sender may take it; none means that no sender may.
  due BIGINT,
  -- Counts the leases; who finishes must hold the last one.
  lease BIGINT NOT NULL DEFAULT 0,
  attempts BIGINT NOT NULL DEFAULT 0,
  created_at BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
);
CREATE INDEX deliveries_by_session ON deliveries (session);
CREATE INDEX deliveries_due ON deliveries (tenant, due) WHERE due IS NOT NULL;
CREATE INDEX deliveries_unsettled ON deliveries (tenant, state)
  WHERE state <> 'accepted' AND state <> 'superseded' AND state <> 'cancelled';

-- Apart from deliveries, so that a change of state does not rewrite the bytes.
CREATE TABLE messages (
  delivery BIGINT PRIMARY KEY REFERENCES deliveries (id),
  envelope_from TEXT NOT NULL,
  wire BYTEA NOT NULL
);

-- The attempts that have ended. Of one that has not, the delivery in state sending tells since when. A row without an
-- outcome is such a one of an earlier program.
CREATE TABLE attempts (
  delivery BIGINT NOT NULL REFERENCES deliveries (id),
  number BIGINT NOT NULL,
  began_at BIGINT NOT NULL,
  ended_at BIGINT,
  outcome TEXT,
  relay TEXT,
  tls TEXT,
  stage TEXT,
  code BIGINT,
  answer TEXT,
  PRIMARY KEY (delivery, number)
);

-- The sent-mail log: append-only, one hash chain a tenant. The record is chained; the content stands beside it
-- and is bound to it by a salted digest.
CREATE TABLE log (
  tenant TEXT NOT NULL,
  number BIGINT NOT NULL,
  session BIGINT,
  delivery BIGINT,
  record TEXT NOT NULL,
  content TEXT,
  hash BYTEA NOT NULL
);
CREATE UNIQUE INDEX log_chain ON log (tenant, number);
CREATE INDEX log_by_session ON log (session) WHERE session IS NOT NULL;

CREATE TABLE quarantine (
  id BIGINT PRIMARY KEY,
  tenant TEXT NOT NULL,
  source TEXT NOT NULL,
  at BIGINT NOT NULL,
  reason TEXT NOT NULL,
  digest BYTEA NOT NULL,
  raw BYTEA NOT NULL,
  UNIQUE (tenant, source, digest)
);

-- The files of the watched folders that are dealt with, by what a look at the folder shows of them.
CREATE TABLE files (
  tenant TEXT NOT NULL,
  path TEXT NOT NULL,
  stamp TEXT NOT NULL,
  PRIMARY KEY (tenant, path)
);
