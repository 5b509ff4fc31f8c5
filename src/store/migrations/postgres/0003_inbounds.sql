-- Each mail that came back.
CREATE TABLE inbounds (
  id BIGINT PRIMARY KEY,
  mailbox TEXT NOT NULL,
  digest BYTEA NOT NULL,
  -- The envelope, where it is known; an empty sender is the null reverse-path.
  sender TEXT,
  recipient TEXT,
  arrived_at BIGINT NOT NULL,
  -- new: to be judged; judged; quarantined: not whole, for this reason.
  state TEXT NOT NULL,
  reason TEXT NOT NULL
);
-- The same mail is kept once; one for two recipients is two mails, since each address has a token of its own.
CREATE UNIQUE INDEX inbounds_once ON inbounds (mailbox, digest, coalesce(recipient, ''));
CREATE INDEX inbounds_open ON inbounds (state, id) WHERE state <> 'judged';

-- Apart, so that a change of state does not rewrite the bytes.
CREATE TABLE inbound_mails (
  inbound BIGINT PRIMARY KEY REFERENCES inbounds (id),
  raw BYTEA NOT NULL
);

CREATE TABLE mailboxes (
  name TEXT PRIMARY KEY,
  -- How far a folder of an IMAP server was read.
  place TEXT,
  uid_validity BIGINT,
  last_uid BIGINT,
  -- When everything that was there had been stored.
  read_at BIGINT,
  -- The instance that reads it.
  owner BIGINT
);
