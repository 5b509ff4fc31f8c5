-- The channel that takes over when a delivery is given up; none where none does, or once it has.
ALTER TABLE deliveries ADD COLUMN fallback TEXT;
-- The delivery in whose place this one was made.
ALTER TABLE deliveries ADD COLUMN instead_of BIGINT;
CREATE INDEX deliveries_instead ON deliveries (instead_of) WHERE instead_of IS NOT NULL;

-- Each channel has a sender of its own.
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (tenant, channel, due) WHERE due IS NOT NULL;
