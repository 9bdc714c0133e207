// Package config reads the configuration of chanceryd. YAML is read by its package
// document, the policy's rules by its package policyfile. It says everything that is wrong at once, each finding
// with file, line, column and a hint.
//
//	cfg, findings := config.Load("/etc/chancery/config.yaml")
//	for _, f := range findings {
//		fmt.Println(f) // config.yaml:14:5: error: keysets.web.algorithm: … (hint: …)
//	}
//
// # The file
//
// One YAML document of plain mappings, sequences and scalars: no anchors,
// aliases, merge keys or tags. Unknown and repeated members are errors, and so
// is a member without a value. Relative paths are relative to the file.
// Durations are "30d", "12h", "1h30m", "90s", "250ms": a day is 24 hours.
//
//	node: NAME                    # required; names this node's logs
//	data: DIR                     # required; catalog, logs, brake file, PIN ledger
//	public_url: URL               # required; a key set's issuer is URL/issuers/KEYSET
//	catalog:                      # absent: a file in data, for this node alone
//	  postgres:                   # a database that several nodes share
//	    url: URL                  # with sslmode=verify-full; several hosts for a failover
//	    password_file: FILE
//	  publishing_lease: 10m       # how long a node that has lost it serves what it last knew
//	audit:                        # what becomes of the logs beside their directory
//	  keep_acts: 400d             # how long a month of acts is kept after its end; absent: for ever
//	  witnesses:
//	    policy: FILE              # C2SP tlog-policy: who has to cosign the checkpoints
//	    every: 10s
//	  anchors:                    # where signed checkpoints are sent besides
//	    - {file: PATH, every: 1m} # appended to; or
//	    - {syslog: ADDRESS}       # unix:PATH, udp://HOST:PORT or tcp://HOST:PORT; or
//	    - {url: URL, ca: FILE}    # POST of the signed note; http on loopback only
//	keystores:
//	  NAME:
//	    pkcs11:                   # this, or transit
//	      module: FILE
//	      token: URI              # RFC 7512, with serial or token, and pin-source
//	      env: {NAME: VALUE}      # of the worker processes
//	      workers: 2
//	      verify: all             # every signature before it leaves; or sampled: one of sixteen by ES* and EdDSA
//	      confine: {read: [PATH], write: [PATH], network: false, exec: false, off: false}
//	    transit:                  # a Transit engine of a Vault, one keystore each
//	      addresses: [URL]        # of one cluster; http on loopback only
//	      mount: transit
//	      namespace: PATH         # absent: the root namespace
//	      ca: FILE                # absent: the system's
//	      server_name: NAME       # absent: the address's host
//	      certificate: FILE       # of the client, and its key
//	      key: FILE
//	      rsa_bits: 2048          # of the RSA keys it makes; 3072 or 4096
//	      auth:
//	        method: token         # or approle, cert, kubernetes, jwt
//	        mount: PATH           # of the auth method; absent: its name
//	        role: NAME            # cert, kubernetes, jwt
//	        role_id: ID           # approle
//	        file: FILE            # the token, approle's secret ID, or the JWT; kubernetes: absent for the pod's own
//	listeners:
//	  signing: {socket: PATH, tcp: HOST:PORT, certificate: FILE, key: FILE, server_name: localhost,
//	            allow_uids: [UID], allow_gids: [GID]}            # who may connect to the socket: either is enough; absent: whom its mode lets in
//	  ops:     {…}                # likewise; certificate and key as signing's where they are not said
//	  public:  {tcp: HOST:PORT, certificate: FILE, key: FILE}   # plain on loopback only
//	  admin:   {tcp: HOST:PORT}   # or socket: PATH; loopback only
//	  # each of signing, ops and public may have:
//	    limits:
//	      handshake: 5s           # from accept to the end of the TLS handshake
//	      read_header: 5s
//	      read: 10s               # header and body
//	      write: 30s              # from the end of the header to that of the answer
//	      idle: 2m                # between two requests
//	      connections: 1024       # in all; one more is closed at once
//	      per_peer: 256           # of one address, or one uid on a Unix socket
//	      header_bytes: 16384
//	      body: 65536             # of one request, in bytes
//	      batch_body: 1048576
//	      request_timeout: 10s    # the work for one request; a caller's Request-Timeout may be shorter
//	      grpc:                   # the signing listener only
//	        streams: 256          # calls open on one connection, 256 at most
//	        per_client: 1024      # calls open by one client certificate
//	        calls: 4096           # calls open in all
//	        in_flight: 64         # requests of one SignJWTStream being worked on
//	        resets: 1000          # calls that one connection resets in 10 s; one more closes it
//	clients:                      # trust anchors of client certificates, and the names each speaks for
//	  - {name: NAME, ca: FILE, spiffe: [TRUST DOMAIN], dns: [NAME or .SUFFIX], uri: [SCHEME://HOST], pins: [SHA-256],
//	     crl: [FILE],             # revocation lists, PEM or DER: of the anchor and of all who issue below it; absent: not asked for
//	     crl_max_age: 24h}        # how old a list may be; absent: until its nextUpdate
//	revoked: {spki: [SHA-256], serials: [HEX]}
//	limits:                       # what principals may ask for at the signing listener
//	  default:                    # each of them
//	    rate: 0                   # requests a second, a batch being as many as it holds; 0: any
//	    burst: N                  # at once, where there is a rate; absent: as many as in a second
//	    concurrent: 512           # requests worked on at a time
//	    weight: 1                 # to 1000: the share of a keystore that several want
//	    quota:
//	      signatures: 1000000     # that raise an alert: an entry quota.reached and a metric
//	      per: 24h                # a day of UTC, or 1h
//	      refuse: false           # true: what is over it is refused until the hour or day is over
//	  principals:                 # what is not said is the default's; a quota is said as a whole
//	    - {principal: ANCHOR:KIND:VALUE, rate: N, burst: N, concurrent: N, weight: N, quota: {…}}
//	  queue:                      # before each keystore
//	    window: N                 # signatures at it at a time, RSA counting four, in batches half; absent: 16 for each worker, 32 for a Vault
//	    waiting: 2048             # requests that wait for that, in all
//	    per_principal: 512
//	keysets:
//	  NAME:
//	    purpose: jwt | ca | audit | digest # exactly one key set is of purpose audit
//	    algorithm: ES256          # of the next version
//	    keystore: NAME            # of the next version
//	    rotate_every: 30d         # absent: on request only; jwt and audit only
//	    max_age: 15m              # Cache-Control of the published set
//	    cache_for: 30m            # A, the longest any cache holds it; absent: twice max_age
//	    caches:                   # in place of cache_for: every tier, the verifiers' own too; A is the sum
//	      - {name: cdn, max_age: 15m, stale_while_revalidate: 1m, stale_if_error: 1h}
//	    skew: 5m                  # S
//	    max_ttl: 1h               # L, jwt only
//	    default_ttl: 5m           # jwt only
//	    issuer: URL               # jwt only; absent: as public_url says
//	    algorithms: [RS256]       # jwt only; what the key set may use later: discovery lists it from the first day
//	    retain: 3650d             # digest only; how long a version is known after it stopped signing
//	    on_gap: stop              # a key is compromised and no other may sign yet; or sign_early: verifiers may reject tokens
//	authorities:
//	  NAME:
//	    keyset: NAME              # of purpose ca, one authority each
//	    common_name: TEXT
//	    lifetime: 3650d
//	    profiles: {NAME: {names_under: [DNS NAME], max_ttl: 24h, default_ttl: 24h, usages: [server, client]}}
//	claims_profiles:              # kinds of JWT beside those built in: jwt (plain), at+jwt, id_token, logout_token
//	  NAME:                       # or a built-in one's, which then has this to itself
//	    kind: at+jwt              # or id_token, logout_token, jwt_svid: its rules hold as well
//	    typ: TYPE                 # of the header; required without a kind, which has its own
//	    required: [CLAIM]         # aud always is
//	    forbidden: [CLAIM]
//	    audiences: [NAME]         # every aud is one of these; absent: any
//	    claims: {CLAIM: string | strings | number | integer | boolean | object | array}
//	    lifetime: 10m             # the longest; absent: as rule and key set say, for a logout token 2m
//	    cnf: caller | named | required | forbidden   # absent: a cnf among the claims is checked, and need not be there
//	  jwt_svid:                   # there is none until it is declared
//	    trust_domains: [TRUST DOMAIN]
//	policy:                       # the first rule that fits decides; what no rule allows is refused; no list, mapping or number of a rule is empty or 0
//	  - rule: NAME
//	    principals: [ANCHOR:KIND:VALUE]
//	    actions: [jwt.sign, csr.sign, digest.sign, keysets.read, rotation.read, keyset.rotate, key.suspend, key.resume, key.compromise, key.destroy, key.reconcile, audit.read, token.manage, clock.confirm, node.manage]
//	    keysets: [NAME]           # or "*"
//	    authorities: [NAME]
//	    profiles: [NAME]          # of certificates for csr.sign; of claims for jwt.sign: absent: jwt alone; or "*"
//	    max_ttl: 1h
//	    types: [JWT, at+jwt]      # of the profile jwt; absent: JWT alone; never jwk-set+jwt
//	    cnf: caller | named | required | forbidden   # of jwt.sign; absent: as the profile says, for jwt the caller
//	    names: [DNS NAME or .SUFFIX]
//	    max_names: 10             # of a certificate
//	    require: {uids: [1000], gids: [100], pins: [SHA-256]} # each list must hold the caller's: at the Unix socket, of the key
//	    when: EXPRESSION          # CEL, see package policy; may have several lines
//	    audiences: [TEXT]         # what aud may name, which must be there then
//	    scopes: [TEXT]            # what the claim scope may hold
//	    claims: {required: [NAME], forbidden: [NAME], forced: {NAME: text, whole number, true or false}}
//	    max_claims: 20            # beside iss, iat, nbf, exp and jti
//	    max_bytes: 2048           # of the claims as they were written
//	accept_short_windows: false   # true: no warning about windows below what verifiers cache
//	accept_unsynchronised_clock: false # true: ready though nothing is known to keep the wall clock right
//
// # Files
//
// Files that are named must exist, but for revocation lists: while one is missing,
// broken or too old, the clients concerned are refused and everything else goes
// on, so check has a warning. They are looked at twice a second. The configuration and every PKCS#11 module,
// which is code that runs in the worker, must belong to root or to the daemon's
// user and be writable by no one else, and so must the directories they lie in.
// Private keys must not be readable by everyone; PIN files, tokens and secret IDs
// of a Vault by nobody but their owner. A JWT to log in with must not be writable
// by others.
package config
