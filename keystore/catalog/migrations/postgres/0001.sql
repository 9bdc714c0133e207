-- The catalog in PostgreSQL: the tables of the SQLite file, all of them in
-- schema chancery. Times are Unix microseconds UTC, durations nanoseconds, NULL
-- means "not yet". What the constraints and triggers refuse, check.go has refused
-- before with better words: they are the second line. The table catalog was made
-- before, because it is what all who migrate lock.

-- One row for each committed change; the greatest revision is the catalog's.
-- transition is random and tells, after a commit whose outcome was lost,
-- whether it happened. keyset is empty where nodes changed.
CREATE TABLE change (
	revision   bigint PRIMARY KEY CHECK (revision > 0),
	transition text COLLATE "C" NOT NULL UNIQUE CHECK (length(transition) = 32),
	keyset     text COLLATE "C" NOT NULL,
	at         bigint NOT NULL
);

CREATE TABLE node (
	name             text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
	identity         bytea NOT NULL CHECK (length(identity) = 16),
	epoch            bigint NOT NULL CHECK (epoch > 0),
	enrolled_at      bigint NOT NULL,
	seen_at          bigint NOT NULL,
	revision         bigint NOT NULL CHECK (revision >= 0),
	signs_until      bigint,
	publishes_until  bigint,
	stopped_at       bigint,
	forgotten_at     bigint,
	forgotten_by     text,
	forgotten_reason text,
	sum              bigint NOT NULL,
	CHECK ((forgotten_at IS NULL) = (forgotten_by IS NULL) AND (forgotten_by IS NULL) = (forgotten_reason IS NULL))
);

CREATE TABLE keyset (
	name             text COLLATE "C" PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 64),
	purpose          text NOT NULL CHECK (purpose IN ('jwt', 'ca', 'audit', 'digest', 'probe')),
	algorithm        text NOT NULL,
	keystore         text NOT NULL,
	revision         bigint NOT NULL REFERENCES change (revision),
	created_at       bigint NOT NULL,
	served_at        bigint,
	rotate_by_at     bigint,
	rotate_by        text,
	rotate_by_reason text,
	versions         bigint NOT NULL,
	promises         bigint NOT NULL,
	sum              bigint NOT NULL,
	announced        text NOT NULL DEFAULT '',
	CHECK ((rotate_by_at IS NULL) = (rotate_by IS NULL) AND (rotate_by IS NULL) = (rotate_by_reason IS NULL))
);

CREATE TABLE promise (
	keyset       text COLLATE "C" NOT NULL REFERENCES keyset (name),
	position     bigint NOT NULL CHECK (position >= 0),
	at           bigint NOT NULL,
	max_age      bigint NOT NULL CHECK (max_age >= 0),
	cache_for    bigint NOT NULL CHECK (cache_for >= 0),
	max_lifetime bigint NOT NULL CHECK (max_lifetime >= 0),
	sum          bigint NOT NULL,
	PRIMARY KEY (keyset, position)
);

CREATE TABLE version (
	keyset             text COLLATE "C" NOT NULL REFERENCES keyset (name),
	number             bigint NOT NULL CHECK (number > 0),
	algorithm          text NOT NULL,
	keystore           text NOT NULL,
	key_id             bytea NOT NULL UNIQUE CHECK (length(key_id) = 16),
	kid                text COLLATE "C" UNIQUE CHECK (length(kid) = 43),
	spki               bytea,
	spki_hash          bytea UNIQUE CHECK (length(spki_hash) = 32),
	state              text NOT NULL CHECK (state IN
		('pending', 'published', 'active', 'retiring', 'retired', 'destroyed', 'abandoned')),
	created_at         bigint NOT NULL,
	published_at       bigint,
	served_at          bigint,
	activated_at       bigint,
	stopped_at         bigint,
	retired_at         bigint,
	destroyed_at       bigint,
	exp_horizon        bigint,
	max_lifetime       bigint NOT NULL CHECK (max_lifetime >= 0),
	suspended_at       bigint,
	suspended_by       text,
	suspended_reason   text,
	compromised_at     bigint,
	compromised_by     text,
	compromised_reason text,
	sum                bigint NOT NULL,
	maker              text NOT NULL DEFAULT '',
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
);

CREATE UNIQUE INDEX version_active ON version (keyset) WHERE state = 'active';

CREATE TABLE acknowledgement (
	node   text COLLATE "C" NOT NULL,
	keyset text COLLATE "C" NOT NULL,
	number bigint NOT NULL,
	at     bigint NOT NULL,
	sum    bigint NOT NULL,
	PRIMARY KEY (keyset, number, node),
	FOREIGN KEY (keyset, number) REFERENCES version (keyset, number)
);

-- Records on their way into the log of the node that wrote them, and where they
-- arrived.
CREATE TABLE outbox (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	transition text COLLATE "C" NOT NULL CHECK (length(transition) = 32),
	record_id  text COLLATE "C" NOT NULL CHECK (length(record_id) = 32),
	record     text NOT NULL,
	at         bigint NOT NULL,
	sum        bigint NOT NULL,
	entry      text,
	node       text COLLATE "C" NOT NULL DEFAULT ''
);

CREATE INDEX outbox_record_id ON outbox (record_id);
CREATE INDEX outbox_transition ON outbox (transition);
CREATE INDEX outbox_unmarked ON outbox (id) WHERE entry IS NULL;

CREATE TABLE certificate (
	serial     text COLLATE "C" PRIMARY KEY,
	authority  text NOT NULL,
	profile    text NOT NULL,
	principal  text NOT NULL,
	version    bigint NOT NULL,
	spki_hash  bytea NOT NULL CHECK (length(spki_hash) = 32),
	names      text NOT NULL,
	not_before bigint NOT NULL,
	not_after  bigint NOT NULL,
	status     text NOT NULL CHECK (status IN ('intent', 'issued', 'failed', 'unknown')),
	der        bytea,
	entry      text NOT NULL,
	node       text COLLATE "C" NOT NULL DEFAULT '',
	epoch      bigint NOT NULL DEFAULT 0,
	CHECK ((der IS NOT NULL) = (status = 'issued'))
);

CREATE INDEX certificate_intent ON certificate (node) WHERE status = 'intent';

CREATE TABLE authority_certificate (
	keyset text COLLATE "C" NOT NULL,
	number bigint NOT NULL,
	der    bytea NOT NULL,
	PRIMARY KEY (keyset, number),
	FOREIGN KEY (keyset, number) REFERENCES version (keyset, number)
);

CREATE TABLE idempotency (
	principal text COLLATE "C" NOT NULL,
	authority text COLLATE "C" NOT NULL,
	profile   text COLLATE "C" NOT NULL,
	key       text COLLATE "C" NOT NULL,
	body      bytea NOT NULL CHECK (length(body) = 32),
	at        bigint NOT NULL,
	reply     bytea,
	node      text COLLATE "C" NOT NULL DEFAULT '',
	epoch     bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (principal, authority, profile, key)
);

CREATE INDEX idempotency_at ON idempotency (at);

CREATE TABLE head (
	origin text COLLATE "C" PRIMARY KEY,
	size   bigint NOT NULL CHECK (size >= 0),
	root   bytea NOT NULL CHECK (length(root) = 32)
);

CREATE TABLE secret (
	name  text COLLATE "C" PRIMARY KEY,
	value bytea NOT NULL CHECK (length(value) = 32)
);

CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'a row of % is never removed or changed like this', TG_TABLE_NAME;
END $$;

CREATE FUNCTION catalog_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id <> OLD.id OR NEW.epochs < OLD.epochs OR NEW.schema < OLD.schema THEN
		RAISE EXCEPTION 'an epoch is never given twice';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION node_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.name <> OLD.name OR NEW.epoch < OLD.epoch
		OR (NEW.epoch = OLD.epoch AND (NEW.identity <> OLD.identity OR NEW.enrolled_at <> OLD.enrolled_at
			OR (OLD.forgotten_at IS NOT NULL AND NEW.forgotten_at IS DISTINCT FROM OLD.forgotten_at)
			OR (OLD.stopped_at IS NOT NULL AND NEW.stopped_at IS DISTINCT FROM OLD.stopped_at)))
	THEN
		RAISE EXCEPTION 'a node is what it is for its whole epoch';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION keyset_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.name <> OLD.name OR NEW.purpose <> OLD.purpose OR NEW.created_at <> OLD.created_at
		OR NEW.revision < OLD.revision
		OR (OLD.served_at IS NOT NULL AND NEW.served_at IS DISTINCT FROM OLD.served_at)
	THEN
		RAISE EXCEPTION 'what a key set is never changes';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION version_begins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.state <> 'pending' THEN
		RAISE EXCEPTION 'a version begins as pending';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION version_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.keyset <> OLD.keyset OR NEW.number <> OLD.number OR NEW.algorithm <> OLD.algorithm
		OR NEW.keystore <> OLD.keystore OR NEW.key_id <> OLD.key_id OR NEW.created_at <> OLD.created_at
		OR NEW.maker <> OLD.maker
		OR (OLD.kid IS NOT NULL AND (NEW.kid IS DISTINCT FROM OLD.kid
			OR NEW.spki IS DISTINCT FROM OLD.spki OR NEW.spki_hash IS DISTINCT FROM OLD.spki_hash))
		OR (OLD.exp_horizon IS NOT NULL AND (NEW.exp_horizon IS NULL OR NEW.exp_horizon < OLD.exp_horizon))
		OR (OLD.compromised_at IS NOT NULL AND NEW.compromised_at IS DISTINCT FROM OLD.compromised_at)
		OR NEW.max_lifetime < OLD.max_lifetime
	THEN
		RAISE EXCEPTION 'what a version is never changes';
	END IF;
	IF NEW.state <> OLD.state AND NOT (
		(OLD.state = 'pending' AND NEW.state IN ('published', 'abandoned'))
		OR (OLD.state = 'published' AND NEW.state IN ('active', 'retired'))
		OR (OLD.state = 'active' AND NEW.state IN ('retiring', 'retired'))
		OR (OLD.state = 'retiring' AND NEW.state = 'retired')
		OR (OLD.state = 'retired' AND NEW.state = 'destroyed'))
	THEN
		RAISE EXCEPTION 'a state only moves forward';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION outbox_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id <> OLD.id OR NEW.transition <> OLD.transition OR NEW.record_id <> OLD.record_id
		OR NEW.record <> OLD.record OR NEW.at <> OLD.at OR NEW.sum <> OLD.sum OR NEW.node <> OLD.node
		OR (OLD.entry IS NOT NULL AND NEW.entry IS DISTINCT FROM OLD.entry)
	THEN
		RAISE EXCEPTION 'an outbox row never changes';
	END IF;
	RETURN NEW;
END $$;

CREATE FUNCTION head_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.origin <> OLD.origin OR NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root <> OLD.root) THEN
		RAISE EXCEPTION 'a log never shrinks';
	END IF;
	RETURN NEW;
END $$;

CREATE TRIGGER catalog_stays BEFORE DELETE ON catalog FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER catalog_forward BEFORE UPDATE ON catalog FOR EACH ROW EXECUTE FUNCTION catalog_forward();
CREATE TRIGGER change_stays BEFORE DELETE OR UPDATE ON change FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER node_stays BEFORE DELETE ON node FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER node_forward BEFORE UPDATE ON node FOR EACH ROW EXECUTE FUNCTION node_forward();
CREATE TRIGGER keyset_stays BEFORE DELETE ON keyset FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER keyset_fixed BEFORE UPDATE ON keyset FOR EACH ROW EXECUTE FUNCTION keyset_fixed();
CREATE TRIGGER promise_stays BEFORE DELETE OR UPDATE ON promise FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER version_begins BEFORE INSERT ON version FOR EACH ROW EXECUTE FUNCTION version_begins();
CREATE TRIGGER version_stays BEFORE DELETE ON version FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER version_fixed BEFORE UPDATE ON version FOR EACH ROW EXECUTE FUNCTION version_fixed();
CREATE TRIGGER acknowledgement_fixed BEFORE UPDATE ON acknowledgement FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER outbox_stays BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER outbox_fixed BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION outbox_fixed();
CREATE TRIGGER head_forward BEFORE UPDATE ON head FOR EACH ROW EXECUTE FUNCTION head_forward();
