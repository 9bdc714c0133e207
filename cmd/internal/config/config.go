package config

import (
	"crypto/x509"
	"maps"
	"math"
	"net/url"
	"slices"
	"time"

	"chancery/cmd/internal/config/policyfile"
	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// What holds where the file does not say.
const (
	DefaultServerName = "localhost"
	DefaultMaxAge     = 15 * time.Minute
	// DefaultCacheFactor times max_age is how long caches are taken to hold a
	// set: twice, because clients behind a shared cache ignore the Age header.
	DefaultCacheFactor       = 2
	DefaultSkew              = 5 * time.Minute
	DefaultMaxTTL            = time.Hour
	DefaultTTL               = 300 * time.Second
	DefaultAuthorityLifetime = ca.DefaultAuthorityLifetime
	// DefaultRetain is how long a version of a digest key set stays known after it
	// stopped signing: ten years, because nobody knows how long its signatures are
	// relied on.
	DefaultRetain = 3650 * 24 * time.Hour
)

// A Config is what the file says, with defaults filled in and paths absolute.
// It does not change and may be read concurrently.
type Config struct {
	Node                      string                   `yaml:"node,required"`
	Data                      string                   `yaml:"data,required"`
	PublicURL                 string                   `yaml:"public_url,required"`
	Catalog                   Catalog                  `yaml:"catalog"`
	Audit                     Audit                    `yaml:"audit"`
	Keystores                 map[string]Keystore      `yaml:"keystores,required"`
	Listeners                 Listeners                `yaml:"listeners,required"`
	Clients                   []Client                 `yaml:"clients,required"`
	Revoked                   Revoked                  `yaml:"revoked"`
	Limits                    Limits                   `yaml:"limits"`
	KeySets                   map[string]KeySet        `yaml:"keysets,required"`
	Authorities               map[string]Authority     `yaml:"authorities"`
	Rules                     []Rule                   `yaml:"policy,required"`
	ClaimsProfiles            map[string]ClaimsProfile `yaml:"claims_profiles"`
	AcceptShortWindows        bool                     `yaml:"accept_short_windows"`
	AcceptUnsynchronisedClock bool                     `yaml:"accept_unsynchronised_clock"`

	profiles  map[string]*jwt.Profile // of claims: those built in, and ClaimsProfiles, checked
	file      string
	hash      string
	positions map[string]position
}

// Listeners are the doors.
type Listeners struct {
	Signing Guarded `yaml:"signing,required"`
	Ops     Guarded `yaml:"ops,required"`
	Public  Public  `yaml:"public,required"`
	Admin   Admin   `yaml:"admin,required"`
}

// Guarded is a listener with mutual TLS, on a Unix socket, on TCP, or on both.
type Guarded struct {
	Socket      string   `yaml:"socket"`
	TCP         string   `yaml:"tcp"`
	Certificate string   `yaml:"certificate"`
	Key         string   `yaml:"key"`
	ServerName  string   `yaml:"server_name"`
	AllowUIDs   []uint32 `yaml:"allow_uids"` // who may connect to the socket; with AllowGIDs empty too, whom its mode lets in
	AllowGIDs   []uint32 `yaml:"allow_gids"`

	Limits DoorLimits `yaml:"limits"`
}

// Public is the listener everyone may read; plain if Certificate is empty.
type Public struct {
	TCP         string `yaml:"tcp,required"`
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`

	Limits DoorLimits `yaml:"limits"`
}

// Admin is the listener for health and metrics: either Socket or TCP.
type Admin struct {
	Socket string `yaml:"socket"`
	TCP    string `yaml:"tcp"`
}

// A Client is a trust anchor of client certificates.
type Client struct {
	Name   string   `yaml:"name,required"`
	CA     string   `yaml:"ca,required"`
	SPIFFE []string `yaml:"spiffe"`
	DNS    []string `yaml:"dns"`
	URI    []string `yaml:"uri"`
	PINs   []string `yaml:"pins"`
	// CRL is files of revocation lists: of the anchor, and of each authority below it
	// that issues to clients. None: revocation is not asked for.
	CRL       []string      `yaml:"crl"`
	CRLMaxAge time.Duration `yaml:"crl_max_age"` // 0: as long as a list itself says

	certificates []*x509.Certificate // of the file CA
}

// Revoked lists client certificates that count no more.
type Revoked struct {
	SPKI    []string `yaml:"spki"`
	Serials []string `yaml:"serials"`
}

// A KeySet is a key set as it is configured.
type KeySet struct {
	Name        string               `yaml:"-"`
	Purpose     keystore.Purpose     `yaml:"purpose,required"`
	Algorithm   keystore.Algorithm   `yaml:"algorithm,required"`
	Keystore    string               `yaml:"keystore,required"`
	RotateEvery time.Duration        `yaml:"rotate_every"`
	MaxAge      time.Duration        `yaml:"max_age"`
	CacheFor    time.Duration        `yaml:"cache_for"`
	Caches      []Cache              `yaml:"caches"` // in place of cache_for: its sum
	Skew        time.Duration        `yaml:"skew"`
	MaxTTL      time.Duration        `yaml:"max_ttl"` // for purpose ca: the longest of its authority's profiles
	DefaultTTL  time.Duration        `yaml:"default_ttl"`
	Issuer      string               `yaml:"issuer"`
	Algorithms  []keystore.Algorithm `yaml:"algorithms"`
	OnGap       OnGap                `yaml:"on_gap"`
	Retain      time.Duration        `yaml:"retain"` // for purpose digest: how long a version stays known after it stops signing
}

// A Cache is a tier of caches between the public listener and the verifiers, the
// verifiers' own included: how long it may go on using a set.
type Cache struct {
	Name                 string        `yaml:"name,required"`
	MaxAge               time.Duration `yaml:"max_age"`
	StaleWhileRevalidate time.Duration `yaml:"stale_while_revalidate"`
	StaleIfError         time.Duration `yaml:"stale_if_error"`
}

// cacheFor returns the longest that a set passes through all tiers: each may have
// had it from the one before at the last moment.
func cacheFor(tiers []Cache) (sum time.Duration) {
	for _, t := range tiers {
		sum += t.MaxAge + t.StaleWhileRevalidate + t.StaleIfError
	}
	return sum
}

// OnGap is what a key set does while no version of it may sign, because the one
// that did is compromised.
type OnGap string

// Stop, the default, signs nothing until rotation rule 1 lets a successor sign.
// SignEarly has one sign that every node serves: verifiers may reject its tokens
// until then.
const (
	Stop      OnGap = "stop"
	SignEarly OnGap = "sign_early"
)

// IssuerURL returns the iss of the key set's tokens.
func (ks KeySet) IssuerURL(publicURL string) string {
	if ks.Issuer != "" {
		return ks.Issuer
	}
	return publicURL + "/issuers/" + ks.Name
}

// Spec returns the key set as rotation knows it.
func (ks KeySet) Spec() rotation.Spec {
	return rotation.Spec{
		Name: ks.Name, Purpose: ks.Purpose, Algorithm: ks.Algorithm, Keystore: ks.Keystore, Announced: ks.Algorithms,
		Schedule: rotation.Schedule{
			Every: ks.RotateEvery, MaxAge: ks.MaxAge, CacheFor: ks.CacheFor, Skew: ks.Skew,
			Lifetime: ks.lifetime(), Lease: Lease, Ahead: rotation.Ahead(ks.Purpose),
			SignEarly: ks.OnGap == SignEarly,
		},
	}
}

// lifetime returns L: of signatures that have no expiry, how long they are retained
// (rotation rule 2).
func (ks KeySet) lifetime() time.Duration {
	if ks.Purpose == keystore.PurposeDigest {
		return ks.Retain
	}
	return ks.MaxTTL
}

// An Authority issues certificates by the keys of a key set.
type Authority struct {
	Name       string             `yaml:"-"`
	KeySet     string             `yaml:"keyset,required"`
	CommonName string             `yaml:"common_name,required"`
	Lifetime   time.Duration      `yaml:"lifetime"`
	Written    map[string]Profile `yaml:"profiles,required"`

	Profiles map[string]*ca.Profile `yaml:"-"` // Written, checked
	Skew     time.Duration          `yaml:"-"` // of its key set
}

// A Profile is a certificate profile as it was written.
type Profile struct {
	NamesUnder []string      `yaml:"names_under,required"`
	MaxTTL     time.Duration `yaml:"max_ttl"`
	DefaultTTL time.Duration `yaml:"default_ttl"`
	Usages     []ca.Usage    `yaml:"usages,required"`
}

// Config returns the profile as package ca takes it.
func (p Profile) Config(name string) ca.ProfileConfig {
	return ca.ProfileConfig{Name: name, NamesUnder: p.NamesUnder, MaxTTL: p.MaxTTL, DefaultTTL: p.DefaultTTL, Usages: p.Usages}
}

// A Rule is one rule of the policy.
type Rule = policyfile.Rule

// PolicyConfig returns the policy as package policy takes it.
func (c *Config) PolicyConfig() policy.Config {
	var p policy.Config
	for _, a := range c.Clients {
		p.Anchors = append(p.Anchors, policy.Anchor{Name: a.Name, SPIFFE: a.SPIFFE, DNS: a.DNS, URI: a.URI, PINs: a.PINs})
	}
	for _, r := range c.Rules {
		p.Rules = append(p.Rules, policy.Rule(r))
	}
	p.Revoked = policy.Revoked(c.Revoked)
	p.ClaimsProfiles = policyfile.Written(c.ClaimsProfiles)
	return p
}

// An Anchor is a certificate that vouches for clients, under its client's name.
type Anchor struct {
	Name string
	CA   *x509.Certificate
}

// Anchors returns the certificates of all clients as they were when the file
// was loaded. A client whose file holds several has several.
func (c *Config) Anchors() []Anchor {
	var anchors []Anchor
	for _, client := range c.Clients {
		for _, cert := range client.certificates {
			anchors = append(anchors, Anchor{client.Name, cert})
		}
	}
	return anchors
}

// A Pair is the files of a certificate and its key.
type Pair struct{ Certificate, Key string }

// Certificates returns the pairs the listeners use, each once.
func (c *Config) Certificates() []Pair {
	l := c.Listeners
	var pairs []Pair
	for _, p := range []Pair{{l.Signing.Certificate, l.Signing.Key}, {l.Ops.Certificate, l.Ops.Key}, {l.Public.Certificate, l.Public.Key}} {
		if p.Certificate != "" && !slices.Contains(pairs, p) {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// PublicHost returns the host of public_url, with its port, which begins the
// origin of every log.
func (c *Config) PublicHost() string {
	u, err := url.Parse(c.PublicURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// AuthorityKeySets returns the key sets of all authorities, sorted.
func (c *Config) AuthorityKeySets() []string {
	var names []string
	for _, a := range c.Authorities {
		names = append(names, a.KeySet)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// SmallestSkew returns the smallest skew of all key sets: what every verifier
// forgives.
func (c *Config) SmallestSkew() time.Duration {
	smallest := time.Duration(math.MaxInt64)
	for _, ks := range c.KeySets {
		smallest = min(smallest, ks.Skew)
	}
	return smallest
}

// Hash returns the SHA-256 of the file, in hexadecimal.
func (c *Config) Hash() string { return c.hash }

// NeedsRestart returns a member whose value in next a reload cannot put in
// force, or nothing. Policy, revocations, client anchors, who may connect,
// certificates, limits of principals, the keystores in which key sets have their
// next versions made, claims profiles and whether short windows and an
// unsynchronised clock are accepted can change while the daemon runs.
func (c *Config) NeedsRestart(next *Config) string {
	switch {
	case c.Node != next.Node:
		return "node"
	case c.Data != next.Data:
		return "data"
	case c.PublicURL != next.PublicURL:
		return "public_url"
	case !c.Catalog.equal(next.Catalog):
		return "catalog"
	case !c.Audit.equal(next.Audit):
		return "audit"
	case !maps.EqualFunc(c.Keystores, next.Keystores, Keystore.equal):
		return "keystores"
	case c.Listeners.addresses() != next.Listeners.addresses() || c.Listeners.limits() != next.Listeners.limits():
		return "listeners"
	case !maps.EqualFunc(c.KeySets, next.KeySets, KeySet.equal):
		return "keysets"
	case !maps.EqualFunc(c.Authorities, next.Authorities, Authority.equal):
		return "authorities"
	case c.Limits.Queue != next.Limits.Queue:
		return "limits.queue"
	}
	return ""
}

// addresses is l without what a reload may change.
func (l Listeners) addresses() [7]string {
	plain := "plain"
	if l.Public.Certificate != "" {
		plain = "TLS"
	}
	return [...]string{l.Signing.Socket, l.Signing.TCP, l.Ops.Socket, l.Ops.TCP, l.Public.TCP + " " + plain, l.Admin.Socket, l.Admin.TCP}
}

func (l Listeners) limits() [3]DoorLimits {
	return [...]DoorLimits{l.Signing.Limits, l.Ops.Limits, l.Public.Limits}
}

// equal reports whether ks and o differ in nothing but their keystores.
func (ks KeySet) equal(o KeySet) bool {
	return slices.Equal(ks.Algorithms, o.Algorithms) && slices.Equal(ks.Caches, o.Caches) && ks.Purpose == o.Purpose && ks.Algorithm == o.Algorithm &&
		ks.RotateEvery == o.RotateEvery && ks.MaxAge == o.MaxAge && ks.CacheFor == o.CacheFor && ks.Skew == o.Skew &&
		ks.MaxTTL == o.MaxTTL && ks.DefaultTTL == o.DefaultTTL && ks.Issuer == o.Issuer && (ks.OnGap == SignEarly) == (o.OnGap == SignEarly) && ks.Retain == o.Retain
}

func (a Authority) equal(o Authority) bool {
	return a.KeySet == o.KeySet && a.CommonName == o.CommonName && a.Lifetime == o.Lifetime && a.Skew == o.Skew &&
		maps.EqualFunc(a.Written, o.Written, Profile.equal)
}

func (p Profile) equal(o Profile) bool {
	return p.MaxTTL == o.MaxTTL && p.DefaultTTL == o.DefaultTTL &&
		slices.Equal(p.NamesUnder, o.NamesUnder) && slices.Equal(p.Usages, o.Usages)
}
