package transittest

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A role is who may log in at an auth mount, and the tokens they get.
type role struct {
	name     string
	entity   string // who logs in with it is always the same one
	policies []string
	ttl      time.Duration
	maxTTL   time.Duration
	period   time.Duration
	uses     int
	batch    bool

	roleID    string          // approle
	secretIDs map[string]bool // approle; a role without any can be made to need none
	bare      bool            // approle: a secret ID is not needed
	jwts      []string        // kubernetes, jwt: the texts it believes
	roots     *x509.CertPool  // cert
}

// A RoleTTL is how long the tokens of a role live. Zero: as long as Vault lets them.
type RoleTTL struct {
	TTL    time.Duration
	Max    time.Duration
	Period time.Duration // of a token that lives for ever if it is renewed
	Uses   int           // after so many requests the token is gone; 0: any number
}

// enabled returns the auth mount, and enables it if need be. Its caller holds mu.
func (f *FakeServer) enabled(path, kind string) *mount {
	path = "auth/" + strings.Trim(path, "/") + "/"
	if f.mounts[path] == nil {
		f.mounts[path] = newMount(path, kind)
	}
	return f.mounts[path]
}

func newRole(name string, policies []string, ttl RoleTTL) *role {
	return &role{name: name, entity: randomUUID(), policies: withDefault(policies, true), ttl: ttl.TTL, maxTTL: ttl.Max, period: ttl.Period, uses: ttl.Uses}
}

// AppRole lets roleID log in at auth/MOUNT/login with secretID; "" stands for a
// role that needs none. Another call for the same roleID replaces the role.
func (f *FakeServer) AppRole(mount, roleID, secretID string, policies []string, ttl RoleTTL) {
	f.set(func() {
		r := newRole("role-"+roleID, policies, ttl)
		r.roleID, r.bare, r.secretIDs = roleID, secretID == "", map[string]bool{secretID: true}
		f.enabled(mount, "approle").roles[r.name] = r
	})
}

// JWTRole lets role log in with exactly these tokens; kind is kubernetes or jwt.
func (f *FakeServer) JWTRole(mount, kind, name string, jwts, policies []string, ttl RoleTTL) {
	f.set(func() {
		r := newRole(name, policies, ttl)
		r.jwts = jwts
		f.enabled(mount, kind).roles[name] = r
	})
}

// CertRole lets whoever shows a certificate of the CA log in.
func (f *FakeServer) CertRole(mount, name string, ca *CA, policies []string, ttl RoleTTL) {
	f.set(func() {
		r := newRole(name, policies, ttl)
		r.roots = x509.NewCertPool()
		r.roots.AddCert(ca.cert)
		f.enabled(mount, "cert").roles[name] = r
	})
}

// grant makes the token of a login. Its caller holds mu.
func (f *FakeServer) grant(m *mount, r *role, meta map[string]string) (*reply, error) {
	t := f.newToken(m.path+"login", m.kind, r.policies)
	t.entity, t.allUse = r.entity, r.uses
	t.meta, t.renewable, t.batch = meta, !r.batch, r.batch
	t.baseTTL, t.maxTTL, t.period = r.ttl, r.maxTTL, r.period
	t.uses, t.limited = r.uses, r.uses > 0
	warnings, err := t.lease(t.issued, 0)
	if err != nil {
		f.drop(t)
		return nil, err
	}
	t.ttl = t.expires.Sub(t.issued)
	return &reply{auth: t.auth(t.issued), warnings: warnings}, nil
}

func (f *FakeServer) loginAppRole(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	roleID, secretID := strings.TrimSpace(field[string](c, "role_id")), strings.TrimSpace(field[string](c, "secret_id"))
	if roleID == "" {
		return nil, refuse(http.StatusInternalServerError, "failed to determine alias name from login request")
	}
	for _, r := range m.roles {
		if r.roleID != roleID {
			continue
		}
		if !r.bare && secretID == "" {
			return nil, refuse(http.StatusBadRequest, "missing secret_id")
		}
		if !r.bare && !r.secretIDs[secretID] {
			break
		}
		return f.grant(m, r, map[string]string{"role_name": r.name})
	}
	return nil, refuse(http.StatusBadRequest, "invalid role or secret ID")
}

func (f *FakeServer) loginJWT(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, jwt := field[string](c, "role"), field[string](c, "jwt")
	switch r := m.roles[name]; {
	case m.kind == "jwt" && len(m.roles) == 0:
		return nil, refuse(http.StatusBadRequest, "could not load configuration")
	case name == "":
		return nil, refuse(http.StatusBadRequest, "missing role")
	case jwt == "" && m.kind == "jwt":
		return nil, refuse(http.StatusBadRequest, "missing token")
	case jwt == "":
		return nil, refuse(http.StatusBadRequest, "missing jwt")
	case r == nil && m.kind == "jwt":
		return nil, refuse(http.StatusBadRequest, "role %q could not be found", name)
	case r == nil:
		return nil, refuse(http.StatusBadRequest, "invalid role name %q", name)
	case !slices.Contains(r.jwts, jwt) && m.kind == "jwt":
		return nil, refuse(http.StatusBadRequest, "error validating token: error verifying token signature: no known key successfully validated the token signature")
	case !slices.Contains(r.jwts, jwt):
		return nil, fail(http.StatusForbidden, "permission denied")
	default:
		return f.grant(m, r, map[string]string{"role": name})
	}
}

func (f *FakeServer) loginCert(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.http.TLS == nil || len(c.http.TLS.PeerCertificates) == 0 {
		return nil, refuse(http.StatusBadRequest, "client certificate must be supplied")
	}
	chain := c.http.TLS.PeerCertificates
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	asked := field[string](c, "name")
	for _, r := range m.roles {
		if asked != "" && asked != r.name {
			continue
		}
		usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: r.roots, Intermediates: between, KeyUsages: usage}); err != nil {
			continue
		}
		return f.grant(m, r, map[string]string{
			"cert_name": r.name, "common_name": chain[0].Subject.CommonName, "serial_number": chain[0].SerialNumber.String(),
			"subject_key_id": colons(chain[0].SubjectKeyId), "authority_key_id": colons(chain[0].AuthorityKeyId),
		})
	}
	return nil, refuse(http.StatusBadRequest, "failed to match all constraints for this login certificate")
}

// colons writes bytes as 0a:1b:2c.
func colons(b []byte) string { return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":") }

// putRole makes a role as an operator does, at a path both kinds of servers have.
func (f *FakeServer) putRole(m *mount, c *call) (*reply, error) {
	policies := field[[]string](c, "token_policies")
	if len(policies) == 0 {
		policies = field[[]string](c, "policies")
	}
	r := newRole(c.args[0], policies, RoleTTL{
		TTL: field[time.Duration](c, "token_ttl"), Max: field[time.Duration](c, "token_max_ttl"),
		Period: field[time.Duration](c, "token_period"), Uses: field[int](c, "token_num_uses"),
	})
	r.batch = field[string](c, "token_type") == "batch"
	r.roleID, r.secretIDs = randomUUID(), make(map[string]bool)
	if bind, said := c.data["bind_secret_id"].(bool); said {
		r.bare = !bind
	}
	if m.kind == "cert" {
		r.roots = x509.NewCertPool()
		if !r.roots.AppendCertsFromPEM([]byte(field[string](c, "certificate"))) {
			return nil, refuse(http.StatusBadRequest, "failed to parse certificate")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := m.roles[r.name]; old != nil {
		r.roleID, r.secretIDs = old.roleID, old.secretIDs
	}
	m.roles[r.name] = r
	return nil, nil
}

func (f *FakeServer) readRoleID(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := m.roles[c.args[0]]
	if r == nil {
		return nil, nil
	}
	return &reply{data: map[string]any{"role_id": r.roleID}}, nil
}

func (f *FakeServer) makeSecretID(m *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := m.roles[c.args[0]]
	if r == nil {
		return nil, refuse(http.StatusBadRequest, "role %q does not exist", c.args[0])
	}
	id := randomUUID()
	r.secretIDs[id] = true
	return &reply{data: map[string]any{"secret_id": id, "secret_id_accessor": randomUUID(), "secret_id_ttl": 0, "secret_id_num_uses": 0}}, nil
}
