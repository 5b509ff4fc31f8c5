-- Each process that delivers, and when it was last heard of.
CREATE TABLE instances (id INTEGER PRIMARY KEY, seen_at INTEGER NOT NULL) STRICT;
-- Who holds the lease.
ALTER TABLE deliveries ADD COLUMN owner INTEGER;

-- The end of each tenant's log: its last record.
CREATE TABLE chains (tenant TEXT PRIMARY KEY, number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO chains SELECT tenant, max(number), hash FROM log GROUP BY tenant;

-- A message is its head, the revision's bytes in base64, and its tail; without a tail, the head is all of it.
ALTER TABLE messages RENAME COLUMN wire TO head;
ALTER TABLE messages ADD COLUMN tail BLOB;

ALTER TABLE attempts ADD COLUMN enhanced TEXT;

-- What was sent in the running second, minute and day, where there is a limit.
CREATE TABLE budgets (
  name TEXT NOT NULL,
  span INTEGER NOT NULL,
  began_at INTEGER NOT NULL,
  used INTEGER NOT NULL,
  PRIMARY KEY (name, span)
) STRICT, WITHOUT ROWID;
