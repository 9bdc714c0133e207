-- Times are Unix microseconds UTC, durations nanoseconds, NULL means "not yet".
-- What the constraints and triggers below refuse, check.go has refused before
-- with better words: they are the second line.

-- One row for each committed change; the greatest revision is the catalog's.
-- transition is random and tells, after a commit whose outcome was lost,
-- whether it happened.
CREATE TABLE change (
	revision   INTEGER PRIMARY KEY CHECK (revision > 0),
	transition TEXT NOT NULL UNIQUE CHECK (length(transition) = 32),
	keyset     TEXT NOT NULL,
	at         INTEGER NOT NULL
) STRICT;

CREATE TABLE keyset (
	name             TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
	purpose          TEXT NOT NULL CHECK (purpose IN ('jwt', 'ca', 'audit', 'digest', 'probe')),
	algorithm        TEXT NOT NULL,
	keystore         TEXT NOT NULL,
	revision         INTEGER NOT NULL REFERENCES change (revision),
	created_at       INTEGER NOT NULL,
	served_at        INTEGER,
	rotate_by_at     INTEGER,
	rotate_by        TEXT,
	rotate_by_reason TEXT,
	versions         INTEGER NOT NULL, -- how many there are, so that a lost row is noticed
	promises         INTEGER NOT NULL,
	sum              INTEGER NOT NULL, -- CRC-32C of the row, so that a flipped bit is noticed
	CHECK ((rotate_by_at IS NULL) = (rotate_by IS NULL) AND (rotate_by IS NULL) = (rotate_by_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE promise (
	keyset       TEXT NOT NULL REFERENCES keyset (name),
	position     INTEGER NOT NULL CHECK (position >= 0),
	at           INTEGER NOT NULL,
	max_age      INTEGER NOT NULL CHECK (max_age >= 0),
	cache_for    INTEGER NOT NULL CHECK (cache_for >= 0),
	max_lifetime INTEGER NOT NULL CHECK (max_lifetime >= 0),
	sum          INTEGER NOT NULL,
	PRIMARY KEY (keyset, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE version (
	keyset             TEXT NOT NULL REFERENCES keyset (name),
	number             INTEGER NOT NULL CHECK (number > 0),
	algorithm          TEXT NOT NULL,
	keystore           TEXT NOT NULL,
	key_id             BLOB NOT NULL UNIQUE CHECK (length(key_id) = 16),
	kid                TEXT UNIQUE CHECK (length(kid) = 43),
	spki               BLOB,
	spki_hash          BLOB UNIQUE CHECK (length(spki_hash) = 32),
	state              TEXT NOT NULL CHECK (state IN
		('pending', 'published', 'active', 'retiring', 'retired', 'destroyed', 'abandoned')),
	created_at         INTEGER NOT NULL,
	published_at       INTEGER,
	served_at          INTEGER,
	activated_at       INTEGER,
	stopped_at         INTEGER,
	retired_at         INTEGER,
	destroyed_at       INTEGER,
	exp_horizon        INTEGER,
	max_lifetime       INTEGER NOT NULL CHECK (max_lifetime >= 0),
	suspended_at       INTEGER,
	suspended_by       TEXT,
	suspended_reason   TEXT,
	compromised_at     INTEGER,
	compromised_by     TEXT,
	compromised_reason TEXT,
	sum                INTEGER NOT NULL,
	PRIMARY KEY (keyset, number),
	CHECK ((kid IS NULL) = (spki IS NULL) AND (kid IS NULL) = (spki_hash IS NULL)),
	CHECK ((kid IS NULL) = (state IN ('pending', 'abandoned'))),
	CHECK ((published_at IS NULL) = (state IN ('pending', 'abandoned'))),
	CHECK (activated_at IS NOT NULL OR state NOT IN ('active', 'retiring')),
	CHECK (stopped_at IS NOT NULL OR state <> 'retiring'),
	CHECK ((retired_at IS NOT NULL) = (state IN ('retired', 'destroyed'))),
	CHECK ((destroyed_at IS NOT NULL) = (state IN ('destroyed', 'abandoned'))),
	CHECK ((suspended_at IS NULL) = (suspended_by IS NULL) AND (suspended_by IS NULL) = (suspended_reason IS NULL)),
	CHECK ((compromised_at IS NULL) = (compromised_by IS NULL) AND (compromised_by IS NULL) = (compromised_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX version_active ON version (keyset) WHERE state = 'active';

CREATE TABLE acknowledgement (
	node   TEXT NOT NULL,
	keyset TEXT NOT NULL,
	number INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	PRIMARY KEY (keyset, number, node),
	FOREIGN KEY (keyset, number) REFERENCES version (keyset, number)
) STRICT, WITHOUT ROWID;

-- Records on their way into the log, and where they arrived.
CREATE TABLE outbox (
	id         INTEGER PRIMARY KEY AUTOINCREMENT,
	transition TEXT NOT NULL CHECK (length(transition) = 32),
	record_id  TEXT NOT NULL CHECK (length(record_id) = 32),
	record     TEXT NOT NULL,
	at         INTEGER NOT NULL,
	sum        INTEGER NOT NULL,
	entry      TEXT
) STRICT;

CREATE INDEX outbox_record_id ON outbox (record_id);
CREATE INDEX outbox_transition ON outbox (transition);
CREATE INDEX outbox_unmarked ON outbox (id) WHERE entry IS NULL;

CREATE TABLE certificate (
	serial     TEXT PRIMARY KEY,
	authority  TEXT NOT NULL,
	profile    TEXT NOT NULL,
	principal  TEXT NOT NULL,
	version    INTEGER NOT NULL,
	spki_hash  BLOB NOT NULL CHECK (length(spki_hash) = 32),
	names      TEXT NOT NULL,
	not_before INTEGER NOT NULL,
	not_after  INTEGER NOT NULL,
	status     TEXT NOT NULL CHECK (status IN ('intent', 'issued', 'failed', 'unknown')),
	der        BLOB,
	entry      TEXT NOT NULL,
	CHECK ((der IS NOT NULL) = (status = 'issued'))
) STRICT, WITHOUT ROWID;

CREATE INDEX certificate_intent ON certificate (serial) WHERE status = 'intent';

CREATE TABLE authority_certificate (
	keyset TEXT NOT NULL,
	number INTEGER NOT NULL,
	der    BLOB NOT NULL,
	PRIMARY KEY (keyset, number),
	FOREIGN KEY (keyset, number) REFERENCES version (keyset, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
	principal TEXT NOT NULL,
	authority TEXT NOT NULL,
	profile   TEXT NOT NULL,
	key       TEXT NOT NULL,
	body      BLOB NOT NULL CHECK (length(body) = 32),
	at        INTEGER NOT NULL,
	reply     BLOB,
	PRIMARY KEY (principal, authority, profile, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE head (
	origin TEXT PRIMARY KEY,
	size   INTEGER NOT NULL CHECK (size >= 0),
	root   BLOB NOT NULL CHECK (length(root) = 32)
) STRICT, WITHOUT ROWID;

CREATE TABLE secret (
	name  TEXT PRIMARY KEY,
	value BLOB NOT NULL CHECK (length(value) = 32)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER keyset_stays BEFORE DELETE ON keyset
BEGIN SELECT RAISE(ABORT, 'a key set is never removed'); END;

CREATE TRIGGER keyset_fixed BEFORE UPDATE ON keyset
WHEN NEW.name <> OLD.name OR NEW.purpose <> OLD.purpose OR NEW.created_at <> OLD.created_at
	OR NEW.revision < OLD.revision
	OR (OLD.served_at IS NOT NULL AND NEW.served_at IS NOT OLD.served_at)
BEGIN SELECT RAISE(ABORT, 'what a key set is never changes'); END;

CREATE TRIGGER promise_stays BEFORE DELETE ON promise
BEGIN SELECT RAISE(ABORT, 'a promise is never removed'); END;

CREATE TRIGGER promise_fixed BEFORE UPDATE ON promise
BEGIN SELECT RAISE(ABORT, 'a promise never changes'); END;

CREATE TRIGGER version_begins BEFORE INSERT ON version WHEN NEW.state <> 'pending'
BEGIN SELECT RAISE(ABORT, 'a version begins as pending'); END;

CREATE TRIGGER version_stays BEFORE DELETE ON version
BEGIN SELECT RAISE(ABORT, 'a version is never removed'); END;

CREATE TRIGGER version_fixed BEFORE UPDATE ON version
WHEN NEW.keyset <> OLD.keyset OR NEW.number <> OLD.number OR NEW.algorithm <> OLD.algorithm
	OR NEW.keystore <> OLD.keystore OR NEW.key_id <> OLD.key_id OR NEW.created_at <> OLD.created_at
	OR (OLD.kid IS NOT NULL AND (NEW.kid IS NOT OLD.kid OR NEW.spki IS NOT OLD.spki OR NEW.spki_hash IS NOT OLD.spki_hash))
	OR (OLD.exp_horizon IS NOT NULL AND (NEW.exp_horizon IS NULL OR NEW.exp_horizon < OLD.exp_horizon))
	OR (OLD.compromised_at IS NOT NULL AND NEW.compromised_at IS NOT OLD.compromised_at)
	OR NEW.max_lifetime < OLD.max_lifetime
BEGIN SELECT RAISE(ABORT, 'what a version is never changes'); END;

CREATE TRIGGER version_forward BEFORE UPDATE ON version
WHEN NEW.state <> OLD.state AND NOT (
	(OLD.state = 'pending' AND NEW.state IN ('published', 'abandoned'))
	OR (OLD.state = 'published' AND NEW.state IN ('active', 'retired'))
	OR (OLD.state = 'active' AND NEW.state IN ('retiring', 'retired'))
	OR (OLD.state = 'retiring' AND NEW.state = 'retired')
	OR (OLD.state = 'retired' AND NEW.state = 'destroyed'))
BEGIN SELECT RAISE(ABORT, 'a state only moves forward'); END;

CREATE TRIGGER outbox_stays BEFORE DELETE ON outbox
BEGIN SELECT RAISE(ABORT, 'an outbox row is never removed'); END;

CREATE TRIGGER outbox_fixed BEFORE UPDATE ON outbox
WHEN NEW.id <> OLD.id OR NEW.transition <> OLD.transition OR NEW.record_id <> OLD.record_id
	OR NEW.record <> OLD.record OR NEW.at <> OLD.at OR NEW.sum <> OLD.sum
	OR (OLD.entry IS NOT NULL AND NEW.entry IS NOT OLD.entry)
BEGIN SELECT RAISE(ABORT, 'an outbox row never changes'); END;

CREATE TRIGGER head_forward BEFORE UPDATE ON head
WHEN NEW.origin <> OLD.origin OR NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root <> OLD.root)
BEGIN SELECT RAISE(ABORT, 'a log never shrinks'); END;

CREATE TRIGGER change_stays BEFORE DELETE ON change
BEGIN SELECT RAISE(ABORT, 'a change is never removed'); END;

CREATE TRIGGER change_fixed BEFORE UPDATE ON change
BEGIN SELECT RAISE(ABORT, 'a change never changes'); END;
