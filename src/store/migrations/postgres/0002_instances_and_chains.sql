-- Each process that delivers, and when it was last heard of.
CREATE TABLE instances (id BIGINT PRIMARY KEY, seen_at BIGINT NOT NULL);
-- Who holds the lease.
ALTER TABLE deliveries ADD COLUMN owner BIGINT;

-- The end of each tenant's log: its last record.
CREATE TABLE chains (tenant TEXT PRIMARY KEY, number BIGINT NOT NULL, hash BYTEA NOT NULL);
INSERT INTO chains SELECT DISTINCT ON (tenant) tenant, number, hash FROM log ORDER BY tenant, number DESC;

-- A message is its head, the revision's bytes in base64, and its tail; without a tail, the head is all of it.
ALTER TABLE messages RENAME COLUMN wire TO head;
ALTER TABLE messages ADD COLUMN tail BYTEA;

ALTER TABLE attempts ADD COLUMN enhanced TEXT;

-- What was sent in the running second, minute and day, where there is a limit.
CREATE TABLE budgets (
  name TEXT NOT NULL,
  span BIGINT NOT NULL,
  began_at BIGINT NOT NULL,
  used BIGINT NOT NULL,
  PRIMARY KEY (name, span)
);
