package keystore

// A Record is what happened, as the one who did it tells the log. The log adds
// schema version, sequence and time, and so makes an entry of it. It holds no
// claim values and no secrets.
//
// Members that do not apply stay zero and are left out of the entry.
type Record struct {
	// ID joins the entries of one transition: the intent and its outcome, or a
	// step in the catalog's outbox and its entry. 32 hexadecimal digits.
	ID        string  `json:"id,omitempty"`
	Principal string  `json:"principal,omitempty"` // who asked, or "chancery" for what time did
	Action    Action  `json:"action"`
	Outcome   Outcome `json:"outcome"`
	KeySet    string  `json:"keyset,omitempty"`
	KID       KID     `json:"kid,omitempty"`
	Version   int     `json:"version,omitempty"`
	// Use numbers what a key of this node was asked to sign, from 1 for each kid:
	// taken before the key is asked, so that an auditor sees that none is missing.
	Use       int64  `json:"use,omitempty"`
	State     string `json:"state,omitempty"` // the version's state after the act
	Rule      string `json:"rule,omitempty"`  // the policy or rotation rule that decided
	Policy    string `json:"policy,omitempty"`
	Request   string `json:"request,omitempty"` // salted digest of the request
	Code      string `json:"code,omitempty"`    // the error code a refused caller saw
	Reason    string `json:"reason,omitempty"`  // an operator's words, or the cause of a failure
	Exp       int64  `json:"exp,omitempty"`     // of the token, Unix seconds
	JTI       string `json:"jti,omitempty"`
	Authority string `json:"authority,omitempty"`
	Profile   string `json:"profile,omitempty"`   // of the certificate, or of the token's claims
	Serial    string `json:"serial,omitempty"`    // of the certificate, lower-case hexadecimal
	NotAfter  int64  `json:"not_after,omitempty"` // of the certificate, Unix seconds
	Count     int    `json:"count,omitempty"`     // how many acts this entry stands for; 0 is one

	// Detail holds what is particular to the action: names and short values.
	Detail map[string]string `json:"detail,omitempty"`
}

// An Action names what was done, as "noun.verb". The list may grow.
type Action string

// The actions.
const (
	ActSignJWT         Action = "jwt.sign"
	ActSignHistory     Action = "history.sign" // the keys a key set has had
	ActSignCSR         Action = "csr.sign"
	ActSignDigest      Action = "digest.sign"
	ActHandshake       Action = "tls.handshake"
	ActRequest         Action = "request"       // a refused request that named no other action
	ActQuota           Action = "quota.reached" // a principal has had as many signatures as raise an alert
	ActRead            Action = "read"
	ActReadAudit       Action = "audit.read"
	ActKeySetCreate    Action = "keyset.create"
	ActKeySetConfigure Action = "keyset.configure" // promises, algorithm, keystore, skew or rhythm changed
	ActKeyGenerate     Action = "key.generate"
	ActKeyPublish      Action = "key.publish"
	ActKeyServed       Action = "key.served" // a node serves a set with it
	ActKeyProven       Action = "key.proven" // this node saw the token sign a challenge
	ActKeyActivate     Action = "key.activate"
	ActKeyRetire       Action = "key.retire"      // active → retiring
	ActKeyRemove       Action = "key.remove"      // retiring → retired
	ActKeyDestroy      Action = "key.destroy"     // retired → destroyed
	ActKeyAbandon      Action = "key.abandon"     // pending → abandoned
	ActKeyOrphan       Action = "key.orphan"      // a key on a token that the catalog does not know
	ActKeyMissing      Action = "key.missing"     // a version's private key is not in its keystore
	ActKeyHalfPair     Action = "key.half_pair"   // one half of a version's key pair is not there
	ActKeyAttributes   Action = "key.attributes"  // a key can do what it must not
	ActKeyResurrected  Action = "key.resurrected" // a destroyed key is there again
	ActKeyDisputed     Action = "key.disputed"    // log, catalog and published set say different things of a version
	ActReconcile       Action = "key.reconcile"   // an operator had the keystores compared
	ActIssueAuthority  Action = "authority.issue" // the certificate of a CA key version
	ActRotate          Action = "keyset.rotate"
	ActSuspend         Action = "key.suspend"
	ActResume          Action = "key.resume"
	ActCompromise      Action = "key.compromise"
	ActStart           Action = "node.start"
	ActStop            Action = "node.stop"
	ActReload          Action = "node.reload"
	ActNodeEnrol       Action = "node.enrol"       // a node signs and serves from now on
	ActNodeForget      Action = "node.forget"      // an operator said that it does not come back
	ActNodeFenced      Action = "node.fenced"      // it may neither sign nor serve any more
	ActLease           Action = "node.lease"       // it may not sign by an old snapshot, or may again
	ActClockStep       Action = "clock.step"       // wall clock and boot time disagree: nothing is signed
	ActClockSettled    Action = "clock.settled"    // they agree again
	ActClockConfirm    Action = "clock.confirm"    // an operator said that the wall clock is right
	ActRevocation      Action = "revocation.state" // it cannot be told which clients of an anchor are revoked, or can again
	ActTokenState      Action = "token.state"
	ActTokenRetry      Action = "token.retry"
	ActKeyUse          Action = "key.use"       // numbers of uses whose outcome nobody knows
	ActAuditShard      Action = "audit.shard"   // a month of acts began, or ended: its last checkpoint
	ActAuditHead       Action = "audit.head"    // how far the acts had come
	ActAuditPeer       Action = "audit.peer"    // how far the lifecycle log of another node had come
	ActAuditPrune      Action = "audit.prune"   // a month of acts was removed, as the policy says
	ActAuditWitness    Action = "audit.witness" // a witness contradicts this log, or no longer does
	ActAuditRepair     Action = "audit.repair"  // a torn tail was cut
	ActAuditResume     Action = "audit.resume"  // the log could not be written and can again
)

// An Outcome is how it went.
type Outcome string

// The outcomes. An intent without another entry of its ID is read as unknown.
const (
	OutcomeIntent  Outcome = "intent"
	OutcomeDone    Outcome = "done"
	OutcomeRefused Outcome = "refused"
	OutcomeFailed  Outcome = "failed"
	OutcomeUnknown Outcome = "unknown"
)
