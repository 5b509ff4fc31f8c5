-- What each mail that came back was judged to be. Judging it again replaces the row; what followed stays in the log.
CREATE TABLE verdicts (
  inbound BIGINT PRIMARY KEY REFERENCES inbounds (id),
  -- The delivery that it is about; none where nothing ties it to one.
  tenant TEXT,
  session BIGINT REFERENCES sessions (id),
  delivery BIGINT REFERENCES deliveries (id),
  proof TEXT,
  kind TEXT NOT NULL,
  rule TEXT NOT NULL,
  -- As JSON: the verdict; what it was judged by; what followed.
  verdict TEXT NOT NULL,
  evidence TEXT NOT NULL,
  reactions TEXT NOT NULL,
  judged_at BIGINT NOT NULL
);
CREATE INDEX verdicts_by_session ON verdicts (session) WHERE session IS NOT NULL;
CREATE INDEX verdicts_unmatched ON verdicts (inbound) WHERE delivery IS NULL;

-- The addresses that nothing goes to any more, in small letters.
CREATE TABLE stopped (
  tenant TEXT NOT NULL,
  address TEXT NOT NULL,
  at BIGINT NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (tenant, address)
);

-- When a person was told last of a matter, so that a flood of bounces is no flood of alerts.
CREATE TABLE alerts (
  tenant TEXT NOT NULL,
  matter TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (tenant, matter)
);

-- The ticket that the CRM named in its answer to an update without one.
ALTER TABLE sessions ADD COLUMN learned_ticket TEXT;
-- The inbound that a delivery tells somebody of; none for an update.
ALTER TABLE deliveries ADD COLUMN notice BIGINT;
