package catalog

// Every statement of the package but the migrations. They are SQLite's dialect;
// the parameters of an INSERT follow the order of the table's columns.
const (
	sqlRevision     = `SELECT COALESCE(MAX(revision), 0) FROM change`
	sqlInsertChange = `INSERT INTO change (revision, transition, keyset, at) VALUES (?, ?, ?, ?)`
	sqlHappened     = `SELECT EXISTS (SELECT 1 FROM change WHERE transition = ?1) OR EXISTS (SELECT 1 FROM outbox WHERE transition = ?1)`

	keySetColumns   = `name, purpose, algorithm, keystore, revision, created_at, served_at, rotate_by_at, rotate_by, rotate_by_reason, versions, promises, sum, announced`
	sqlKeySets      = `SELECT ` + keySetColumns + ` FROM keyset ORDER BY name`
	sqlKeySet       = `SELECT ` + keySetColumns + ` FROM keyset WHERE name = ?`
	sqlInsertKeySet = `INSERT INTO keyset (` + keySetColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlUpdateKeySet = `UPDATE keyset SET (` + keySetColumns + `) = (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) WHERE name = ?1`

	promiseColumns   = `keyset, position, at, max_age, cache_for, max_lifetime, sum`
	sqlAllPromises   = `SELECT ` + promiseColumns + ` FROM promise ORDER BY keyset, position`
	sqlPromises      = `SELECT ` + promiseColumns + ` FROM promise WHERE keyset = ? ORDER BY position`
	sqlInsertPromise = `INSERT INTO promise (` + promiseColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?)`

	versionColumns = `keyset, number, algorithm, keystore, key_id, kid, spki, spki_hash, state,
		created_at, published_at, served_at, activated_at, stopped_at, retired_at, destroyed_at, exp_horizon, max_lifetime,
		suspended_at, suspended_by, suspended_reason, compromised_at, compromised_by, compromised_reason, sum`
	sqlAllVersions   = `SELECT ` + versionColumns + ` FROM version ORDER BY keyset, number`
	sqlVersions      = `SELECT ` + versionColumns + ` FROM version WHERE keyset = ? ORDER BY number`
	sqlVersionByKID  = `SELECT ` + versionColumns + ` FROM version WHERE kid = ?`
	sqlInsertVersion = `INSERT INTO version (` + versionColumns + `)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlUpdateVersion = `UPDATE version SET (` + versionColumns + `) =
		(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)
		WHERE keyset = ?1 AND number = ?2`
	sqlIdentities = `SELECT keyset, number, key_id, kid, spki_hash FROM version WHERE keyset <> ?`
	sqlIsOurKey   = `SELECT EXISTS (SELECT 1 FROM version WHERE spki_hash = ?)`

	sqlAcknowledge = `INSERT INTO acknowledgement (node, keyset, number, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`

	sqlInsertOutbox = `INSERT INTO outbox (transition, record_id, record, at, sum) VALUES (?, ?, ?, ?, ?)`
	sqlOutbox       = `SELECT id, transition, record_id, record, at, sum FROM outbox WHERE entry IS NULL ORDER BY id`
	sqlEntryOf      = `SELECT entry FROM outbox WHERE id = ?`
	sqlMark         = `UPDATE outbox SET entry = ? WHERE id = ?`
	sqlKnows        = `SELECT EXISTS (SELECT 1 FROM outbox WHERE record_id = ?)`

	certificateColumns   = `serial, authority, profile, principal, version, spki_hash, names, not_before, not_after, status, der, entry`
	sqlCertificate       = `SELECT ` + certificateColumns + ` FROM certificate WHERE serial = ?`
	sqlInsertCertificate = `INSERT INTO certificate (` + certificateColumns + `) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlFinishCertificate = `UPDATE certificate SET status = ?, der = ?, entry = ? WHERE serial = ?`
	sqlIntentsUnknown    = `UPDATE certificate SET status = 'unknown' WHERE status = 'intent'`

	sqlAuthorityCertificate       = `SELECT der FROM authority_certificate WHERE keyset = ? AND number = ?`
	sqlAuthorityCertificates      = `SELECT number, der FROM authority_certificate WHERE keyset = ?`
	sqlInsertAuthorityCertificate = `INSERT INTO authority_certificate (keyset, number, der) VALUES (?, ?, ?)`

	idempotencyKey       = ` WHERE principal = ? AND authority = ? AND profile = ? AND key = ?`
	sqlIdempotent        = `SELECT body, at, reply FROM idempotency` + idempotencyKey
	sqlInsertIdempotent  = `INSERT INTO idempotency (principal, authority, profile, key, body, at) VALUES (?, ?, ?, ?, ?, ?)`
	sqlFinishIdempotent  = `UPDATE idempotency SET reply = ?` + idempotencyKey + ` AND reply IS NULL`
	sqlReleaseIdempotent = `DELETE FROM idempotency` + idempotencyKey + ` AND reply IS NULL`
	sqlForgetIdempotent  = `DELETE FROM idempotency WHERE at <= ?`
	sqlForgetInProgress  = `DELETE FROM idempotency WHERE reply IS NULL`

	sqlHead         = `SELECT size, root FROM head WHERE origin = ?`
	sqlHeads        = `SELECT origin, size, root FROM head`
	sqlRemember     = `INSERT INTO head (origin, size, root) VALUES (?, ?, ?) ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root`
	sqlSecret       = `SELECT value FROM secret WHERE name = ?`
	sqlInsertSecret = `INSERT INTO secret (name, value) VALUES (?, ?)`
)
