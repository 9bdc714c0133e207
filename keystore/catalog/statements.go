package catalog

// Every statement that both databases understand. A parameter is $N, and N counts
// up in the order of their first appearance, because SQLite counts appearances;
// the parameters of an INSERT follow the order of the table's columns.
const (
	sqlInsertChange = `INSERT INTO change (revision, transition, keyset, at) VALUES ($1, $2, $3, $4)`
	sqlHappened     = `SELECT EXISTS (SELECT 1 FROM change WHERE transition = $1) OR EXISTS (SELECT 1 FROM outbox WHERE transition = $1)`

	sqlNextEpoch  = `UPDATE catalog SET epochs = epochs + 1 RETURNING epochs`
	nodeColumns   = `name, identity, epoch, enrolled_at, seen_at, revision, signs_until, publishes_until, stopped_at, forgotten_at, forgotten_by, forgotten_reason, sum`
	sqlNodes      = `SELECT ` + nodeColumns + ` FROM node ORDER BY name`
	sqlNode       = `SELECT ` + nodeColumns + ` FROM node WHERE name = $1`
	sqlInsertNode = `INSERT INTO node (` + nodeColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`
	sqlUpdateNode = `UPDATE node SET (` + nodeColumns + `) = ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) WHERE name = $1`

	keySetColumns   = `name, purpose, algorithm, keystore, revision, created_at, served_at, rotate_by_at, rotate_by, rotate_by_reason, versions, promises, sum, announced`
	sqlKeySets      = `SELECT ` + keySetColumns + ` FROM keyset ORDER BY name`
	sqlKeySet       = `SELECT ` + keySetColumns + ` FROM keyset WHERE name = $1`
	sqlInsertKeySet = `INSERT INTO keyset (` + keySetColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`
	sqlUpdateKeySet = `UPDATE keyset SET (` + keySetColumns + `) = ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) WHERE name = $1`

	promiseColumns   = `keyset, position, at, max_age, cache_for, max_lifetime, sum`
	sqlAllPromises   = `SELECT ` + promiseColumns + ` FROM promise ORDER BY keyset, position`
	sqlPromises      = `SELECT ` + promiseColumns + ` FROM promise WHERE keyset = $1 ORDER BY position`
	sqlInsertPromise = `INSERT INTO promise (` + promiseColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7)`

	versionColumns = `keyset, number, algorithm, keystore, key_id, kid, spki, spki_hash, state,
		created_at, published_at, served_at, activated_at, stopped_at, retired_at, destroyed_at, exp_horizon, max_lifetime,
		suspended_at, suspended_by, suspended_reason, compromised_at, compromised_by, compromised_reason, sum, maker`
	sqlHorizons      = `SELECT CAST(COALESCE(sum(exp_horizon / 1000000), 0) AS bigint), CAST(COALESCE(sum(exp_horizon % 1000000), 0) AS bigint) FROM version`
	sqlAllVersions   = `SELECT ` + versionColumns + ` FROM version ORDER BY keyset, number`
	sqlVersions      = `SELECT ` + versionColumns + ` FROM version WHERE keyset = $1 ORDER BY number`
	sqlVersionByKID  = `SELECT ` + versionColumns + ` FROM version WHERE kid = $1`
	sqlInsertVersion = `INSERT INTO version (` + versionColumns + `)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)`
	sqlUpdateVersion = `UPDATE version SET (` + versionColumns + `) =
		($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)
		WHERE keyset = $1 AND number = $2`
	sqlIdentities = `SELECT keyset, number, key_id, kid, spki_hash FROM version WHERE keyset <> $1`
	sqlIsOurKey   = `SELECT EXISTS (SELECT 1 FROM version WHERE spki_hash = $1)`

	ackColumns     = `node, keyset, number, at, sum`
	sqlAllAcks     = `SELECT ` + ackColumns + ` FROM acknowledgement ORDER BY keyset, number, node`
	sqlAcks        = `SELECT ` + ackColumns + ` FROM acknowledgement WHERE keyset = $1 ORDER BY number, node`
	sqlAcknowledge = `INSERT INTO acknowledgement (` + ackColumns + `) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`
	sqlWithdraw    = `DELETE FROM acknowledgement WHERE node = $1 AND keyset = $2 AND number = $3`

	sqlInsertOutbox = `INSERT INTO outbox (transition, record_id, record, at, sum, node) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`
	sqlOutbox       = `SELECT id, transition, record_id, record, at, sum, node FROM outbox WHERE entry IS NULL ORDER BY id`
	sqlEntered      = `SELECT id, transition, record_id, record, at, sum, node, entry FROM outbox WHERE entry IS NOT NULL ORDER BY id`
	sqlEntryOf      = `SELECT entry FROM outbox WHERE id = $1`
	sqlMark         = `UPDATE outbox SET entry = $1 WHERE id = $2`
	sqlKnows        = `SELECT EXISTS (SELECT 1 FROM outbox WHERE record_id = $1)`

	certificateColumns   = `serial, authority, profile, principal, version, spki_hash, names, not_before, not_after, status, der, entry`
	sqlCertificate       = `SELECT ` + certificateColumns + ` FROM certificate WHERE serial = $1`
	sqlInsertCertificate = `INSERT INTO certificate (` + certificateColumns + `, node, epoch)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING`
	sqlFinishCertificate = `UPDATE certificate SET status = $1, der = $2, entry = $3 WHERE serial = $4`
	sqlIntentsUnknown    = `UPDATE certificate SET status = 'unknown' WHERE status = 'intent'`
	sqlIntentsOfUnknown  = sqlIntentsUnknown + ` AND node = $1`

	sqlAuthorityCertificate       = `SELECT der FROM authority_certificate WHERE keyset = $1 AND number = $2`
	sqlAuthorityCertificates      = `SELECT number, der FROM authority_certificate WHERE keyset = $1`
	sqlInsertAuthorityCertificate = `INSERT INTO authority_certificate (keyset, number, der) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

	idempotencyKey       = ` WHERE principal = $1 AND authority = $2 AND profile = $3 AND key = $4`
	sqlIdempotent        = `SELECT body, at, reply, node, epoch FROM idempotency` + idempotencyKey
	sqlInsertIdempotent  = `INSERT INTO idempotency (principal, authority, profile, key, body, at, node, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`
	sqlFinishIdempotent  = `UPDATE idempotency SET reply = $1 WHERE principal = $2 AND authority = $3 AND profile = $4 AND key = $5 AND node = $6 AND epoch = $7 AND reply IS NULL`
	sqlReleaseIdempotent = `DELETE FROM idempotency` + idempotencyKey + ` AND node = $5 AND epoch = $6 AND reply IS NULL`
	sqlAbandonIdempotent = `DELETE FROM idempotency` + idempotencyKey + ` AND reply IS NULL`
	sqlForgetIdempotent  = `DELETE FROM idempotency WHERE at <= $1`
	sqlForgetInProgress  = `DELETE FROM idempotency WHERE reply IS NULL`
	sqlForgetBegunBy     = sqlForgetInProgress + ` AND node = $1`

	sqlHead         = `SELECT size, root FROM head WHERE origin = $1`
	sqlHeads        = `SELECT origin, size, root FROM head`
	sqlRemember     = `INSERT INTO head (origin, size, root) VALUES ($1, $2, $3) ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root`
	sqlSecret       = `SELECT value FROM secret WHERE name = $1`
	sqlInsertSecret = `INSERT INTO secret (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`
)
