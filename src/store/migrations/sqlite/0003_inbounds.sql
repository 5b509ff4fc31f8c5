-- Each mail that came back.
CREATE TABLE inbounds (
  id INTEGER PRIMARY KEY,
  mailbox TEXT NOT NULL,
  digest BLOB NOT NULL,
  -- The envelope, where it is known; an empty sender is the null reverse-path.
  sender TEXT,
  recipient TEXT,
  arrived_at INTEGER NOT NULL,
  -- new: to be judged; judged; quarantined: not whole, for this reason.
  state TEXT NOT NULL,
  reason TEXT NOT NULL
) STRICT;
-- The same mail is kept once; one for two recipients is two mails, since each address has a token of its own.
CREATE UNIQUE INDEX inbounds_once ON inbounds (mailbox, digest, coalesce(recipient, ''));
CREATE INDEX inbounds_open ON inbounds (state, id) WHERE state <> 'judged';

-- Apart, so that a change of state does not rewrite the bytes.
CREATE TABLE inbound_mails (
  inbound INTEGER PRIMARY KEY REFERENCES inbounds (id),
  raw BLOB NOT NULL
) STRICT;

CREATE TABLE mailboxes (
  name TEXT PRIMARY KEY,
  -- How far a folder of an IMAP server was read.
  place TEXT,
  uid_validity INTEGER,
  last_uid INTEGER,
  -- When everything that was there had been stored.
  read_at INTEGER,
  -- The instance that reads it.
  owner INTEGER
) STRICT, WITHOUT ROWID;
