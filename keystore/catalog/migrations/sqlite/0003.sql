-- The one row that says which epoch was given to a node last.
CREATE TABLE catalog (
	id     INTEGER PRIMARY KEY CHECK (id = 1),
	epochs INTEGER NOT NULL CHECK (epochs >= 0)
) STRICT;

INSERT INTO catalog (id, epochs) VALUES (1, 0);

-- The daemons that sign and serve by this catalog. A lease that is NULL lasts
-- until its node stops.
CREATE TABLE node (
	name             TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
	identity         BLOB NOT NULL CHECK (length(identity) = 16),
	epoch            INTEGER NOT NULL UNIQUE CHECK (epoch > 0),
	enrolled_at      INTEGER NOT NULL,
	seen_at          INTEGER NOT NULL,
	revision         INTEGER NOT NULL CHECK (revision >= 0),
	signs_until      INTEGER,
	publishes_until  INTEGER,
	stopped_at       INTEGER,
	forgotten_at     INTEGER,
	forgotten_by     TEXT,
	forgotten_reason TEXT,
	sum              INTEGER NOT NULL,
	CHECK ((forgotten_at IS NULL) = (forgotten_by IS NULL) AND (forgotten_by IS NULL) = (forgotten_reason IS NULL))
) STRICT, WITHOUT ROWID;

-- The node that recorded a version, that wrote a record, that issues a
-- certificate or answers a request. They count in the row's sum where there is
-- any, so that the rows of before keep theirs.
ALTER TABLE version ADD COLUMN maker TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE certificate ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE certificate ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE idempotency ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- Rotation waits for acknowledgements, so a flipped bit in one is noticed. The
-- program seals those of before in the same transaction.
ALTER TABLE acknowledgement ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER catalog_stays BEFORE DELETE ON catalog
BEGIN SELECT RAISE(ABORT, 'the catalog is never removed'); END;

CREATE TRIGGER catalog_forward BEFORE UPDATE ON catalog
WHEN NEW.id <> OLD.id OR NEW.epochs < OLD.epochs
BEGIN SELECT RAISE(ABORT, 'an epoch is never given twice'); END;

CREATE TRIGGER node_stays BEFORE DELETE ON node
BEGIN SELECT RAISE(ABORT, 'a node is never removed'); END;

CREATE TRIGGER node_forward BEFORE UPDATE ON node
WHEN NEW.name <> OLD.name OR NEW.epoch < OLD.epoch
	OR (NEW.epoch = OLD.epoch AND (NEW.identity <> OLD.identity OR NEW.enrolled_at <> OLD.enrolled_at
		OR (OLD.forgotten_at IS NOT NULL AND NEW.forgotten_at IS NOT OLD.forgotten_at)
		OR (OLD.stopped_at IS NOT NULL AND NEW.stopped_at IS NOT OLD.stopped_at)))
BEGIN SELECT RAISE(ABORT, 'a node is what it is for its whole epoch'); END;

CREATE TRIGGER version_maker BEFORE UPDATE ON version WHEN NEW.maker <> OLD.maker
BEGIN SELECT RAISE(ABORT, 'who made a version never changes'); END;

CREATE TRIGGER outbox_node BEFORE UPDATE ON outbox WHEN NEW.node <> OLD.node
BEGIN SELECT RAISE(ABORT, 'an outbox row never changes'); END;

CREATE TRIGGER acknowledgement_fixed BEFORE UPDATE ON acknowledgement
WHEN NEW.node <> OLD.node OR NEW.keyset <> OLD.keyset OR NEW.number <> OLD.number OR NEW.at <> OLD.at
BEGIN SELECT RAISE(ABORT, 'an acknowledgement never changes'); END;
