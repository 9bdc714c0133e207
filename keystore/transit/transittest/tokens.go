package transittest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A token is what a caller shows.
type token struct {
	id, accessor string
	policies     []string
	path         string // where it was made
	displayName  string
	entity       string
	meta         map[string]string
	batch        bool
	limited      bool // for so many uses
	uses, allUse int
	parent       *token

	issued      time.Time
	expires     time.Time // zero: never
	renewed     time.Time
	ttl         time.Duration // when made
	baseTTL     time.Duration // of a renewal that does not say; of its role
	maxTTL      time.Duration // of its role
	explicitMax time.Duration
	period      time.Duration
	renewable   bool
}

// maxLease is the longest a token lives unless it is periodic, and its life if
// nobody says.
const maxLease = 32 * 24 * time.Hour

func (f *FakeServer) rootToken() string {
	t := f.newToken("auth/token/root", "root", []string{"root"})
	return t.id
}

// newToken makes a token that never expires. Its caller holds mu.
func (f *FakeServer) newToken(path, displayName string, policies []string) *token {
	t := &token{
		id: "hvs." + randomHex(24), accessor: randomHex(12), policies: policies,
		path: path, displayName: displayName, issued: f.now(),
	}
	f.tokens[t.id] = t
	return t
}

// live returns the token unless it is unknown, run out or revoked. Its caller
// holds mu.
func (f *FakeServer) live(id string) *token {
	t := f.tokens[id]
	if t == nil {
		return nil
	}
	if !t.expires.IsZero() && !f.now().Before(t.expires) {
		f.drop(t)
		return nil
	}
	return t
}

// drop revokes a token and all that were made with it. Its caller holds mu.
func (f *FakeServer) drop(t *token) {
	delete(f.tokens, t.id)
	for _, child := range f.tokens {
		if child.parent == t {
			f.drop(child)
		}
	}
}

// Revoke revokes a token, as an operator would; it reports whether there was one.
func (f *FakeServer) Revoke(token string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.live(token)
	if t != nil {
		f.drop(t)
	}
	return t != nil
}

// accessor returns the accessor of a token, or "".
func (f *FakeServer) accessor(token string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.live(token); t != nil {
		return t.accessor
	}
	return ""
}

// Accessor names a token without giving it away, as Requests does; "" for one
// the server does not know.
func (f *FakeServer) Accessor(token string) string { return f.accessor(token) }

// lease sets how long t lives from now, given what was asked for, and returns
// the warnings.
func (t *token) lease(now time.Time, asked time.Duration) (warnings []string, err error) {
	most := maxLease
	for _, m := range []time.Duration{t.maxTTL, t.explicitMax} {
		if m > 0 && m < most {
			most = m
		}
	}
	var ttl time.Duration
	var end time.Time
	if t.period > 0 {
		ttl = min(t.period, most)
		if t.explicitMax > 0 {
			end = t.issued.Add(t.explicitMax)
		}
	} else {
		for _, d := range []time.Duration{maxLease, t.baseTTL, asked} {
			if d > 0 {
				ttl = d
			}
		}
		end = t.issued.Add(most)
	}
	if !end.IsZero() {
		left := end.Sub(now).Round(time.Second)
		if left <= 0 {
			return nil, fail(http.StatusInternalServerError, "past the max TTL, cannot renew")
		}
		if ttl > left {
			warnings = append(warnings, fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", brief(ttl), brief(left)))
			ttl = left
		}
	}
	t.expires = now.Add(ttl)
	return warnings, nil
}

// brief writes a duration without its zero parts.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// auth is what a login or renewal answers.
func (t *token) auth(now time.Time) map[string]any {
	kind, accessor := "service", t.accessor
	if t.batch {
		kind, accessor = "batch", ""
	}
	ttl := 0
	if !t.expires.IsZero() {
		ttl = int(t.expires.Sub(now).Round(time.Second) / time.Second)
	}
	var meta any
	if t.meta != nil {
		meta = t.meta
	}
	return map[string]any{
		"client_token": t.id, "accessor": accessor, "policies": t.policies, "token_policies": t.policies, "metadata": meta,
		"lease_duration": ttl, "renewable": t.renewable, "entity_id": t.entity, "token_type": kind, "orphan": t.parent == nil,
		"mfa_requirement": nil, "num_uses": t.allUse,
	}
}

// withDefault returns policies as Vault keeps them: in lower case, sorted, each
// once, with default among them.
func withDefault(policies []string, add bool) []string {
	var out []string
	for _, p := range policies {
		if p = strings.ToLower(strings.TrimSpace(p)); p != "" {
			out = append(out, p)
		}
	}
	if slices.Contains(out, "root") {
		return []string{"root"}
	}
	if add {
		out = append(out, "default")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (f *FakeServer) createToken(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	parent := c.token
	kind := field[string](c, "type")
	switch {
	case parent.batch:
		return nil, refuse(http.StatusBadRequest, "batch tokens cannot create more tokens")
	case parent.limited:
		return nil, refuse(http.StatusBadRequest, "restricted use token cannot generate child tokens")
	case kind != "" && kind != "service" && kind != "batch":
		return nil, refuse(http.StatusBadRequest, "invalid 'token_type' value")
	case field[int](c, "num_uses") < 0:
		return nil, refuse(http.StatusBadRequest, "number of uses cannot be negative")
	}
	have := f.capabilities(parent, c.path)
	sudo := slices.Contains(have, "root") || slices.Contains(have, "sudo")
	t := f.newToken("auth/token/create", "token", nil)
	delete(f.tokens, t.id) // until it is known to be right
	if err := t.fill(c, parent, sudo); err != nil {
		return nil, err
	}
	if kind == "batch" {
		t.batch, t.renewable, t.id = true, false, "hvb."+randomHex(60)
	}
	asked, err := positive(c, "ttl")
	if err != nil {
		return nil, err
	}
	r := new(reply)
	if root := slices.Contains(t.policies, "root"); !root || asked > 0 || t.period > 0 {
		if r.warnings, err = t.lease(t.issued, asked); err != nil {
			return nil, err
		}
		t.ttl = t.expires.Sub(t.issued)
		t.baseTTL = t.ttl
	} else {
		t.renewable = false
	}
	f.tokens[t.id] = t
	r.auth = t.auth(t.issued)
	return r, nil
}

// fill sets what auth/token/create was asked for.
func (t *token) fill(c *call, parent *token, sudo bool) error {
	asked := field[[]string](c, "policies")
	noDefault := field[bool](c, "no_default_policy")
	switch {
	case len(asked) == 0:
		t.policies = slices.Clone(parent.policies)
	case sudo:
		t.policies = withDefault(asked, !noDefault)
	default:
		for _, p := range withDefault(asked, false) {
			if !slices.Contains(parent.policies, p) {
				return refuse(http.StatusBadRequest, "child policies must be subset of parent")
			}
		}
		t.policies = withDefault(asked, !noDefault && slices.Contains(parent.policies, "default"))
	}
	if slices.Contains(t.policies, "root") && !slices.Contains(parent.policies, "root") {
		return refuse(http.StatusBadRequest, "root tokens may not be created without parent token being root")
	}
	var err error
	if t.explicitMax, err = positive(c, "explicit_max_ttl"); err != nil {
		return err
	}
	if t.period, err = positive(c, "period"); err != nil {
		return err
	}
	t.allUse = field[int](c, "num_uses")
	t.uses, t.limited = t.allUse, t.allUse > 0
	if field[string](c, "type") == "batch" {
		for name, isSet := range map[string]bool{"explicit_max_ttl": t.explicitMax > 0, "num_uses": t.limited, "period": t.period > 0} {
			if isSet {
				return refuse(http.StatusBadRequest, "batch tokens cannot have %q set", name)
			}
		}
		if slices.Contains(t.policies, "root") {
			return refuse(http.StatusBadRequest, "batch tokens cannot be root tokens")
		}
	}
	if t.period > 0 && !sudo {
		return refuse(http.StatusBadRequest, "root or sudo privileges required to create periodic token")
	}
	if field[bool](c, "no_parent") {
		if !sudo {
			return refuse(http.StatusBadRequest, "root or sudo privileges required to create orphan token")
		}
	} else {
		t.parent = parent
	}
	if id := field[string](c, "id"); id != "" {
		if !sudo {
			return refuse(http.StatusBadRequest, "root or sudo privileges required to specify token id")
		}
		t.id = id
	}
	if n := field[string](c, "display_name"); n != "" {
		t.displayName = "token-" + n
	}
	_, said := c.data["renewable"]
	t.renewable = !said || field[bool](c, "renewable")
	return nil
}

func positive(c *call, name string) (time.Duration, error) {
	d, err := parseSeconds(field[string](c, name))
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "%v", err)
	}
	if d < 0 {
		return 0, refuse(http.StatusBadRequest, "%s must be positive", name)
	}
	return d, nil
}

func (f *FakeServer) lookupSelf(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, now := c.token, f.now()
	data := map[string]any{
		"id": t.id, "accessor": t.accessor, "policies": t.policies, "path": t.path, "meta": nil, "display_name": t.displayName,
		"num_uses": t.uses, "orphan": t.parent == nil, "creation_time": t.issued.Unix(), "creation_ttl": int(t.ttl.Round(time.Second) / time.Second),
		"expire_time": nil, "ttl": 0, "explicit_max_ttl": int(t.explicitMax / time.Second), "entity_id": t.entity, "type": "service",
	}
	if t.meta != nil {
		data["meta"] = t.meta
	}
	if t.batch {
		data["type"], data["accessor"] = "batch", ""
	}
	if t.period > 0 {
		data["period"] = int(t.period / time.Second)
	}
	if !t.expires.IsZero() {
		data["expire_time"], data["ttl"] = t.expires.UTC().Format(time.RFC3339Nano), int(t.expires.Sub(now).Round(time.Second)/time.Second)
		data["issue_time"], data["renewable"] = t.issued.UTC().Format(time.RFC3339Nano), t.renewable
	}
	if !t.renewed.IsZero() {
		data["last_renewal_time"], data["last_renewal"] = t.renewed.Unix(), t.renewed.UTC().Format(time.RFC3339Nano)
	}
	return &reply{data: data}, nil
}

func (f *FakeServer) renewSelf(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, now := c.token, f.now()
	switch {
	case t.batch:
		return nil, refuse(http.StatusBadRequest, "batch tokens cannot be renewed")
	case t.expires.IsZero():
		return nil, refuse(http.StatusBadRequest, "invalid lease ID")
	case !t.renewable:
		return nil, refuse(http.StatusBadRequest, "lease is not renewable")
	}
	warnings, err := t.lease(now, field[time.Duration](c, "increment"))
	if err != nil {
		return nil, err
	}
	t.renewed = now
	return &reply{auth: t.auth(now), warnings: warnings}, nil
}

func (f *FakeServer) revokeSelf(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.token.batch {
		return nil, refuse(http.StatusBadRequest, "batch tokens cannot be revoked")
	}
	f.drop(c.token)
	return nil, nil
}

func (f *FakeServer) revoke(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := field[string](c, "token")
	if id == "" {
		return nil, refuse(http.StatusBadRequest, "missing token ID")
	}
	t := f.live(id)
	if t == nil {
		return nil, nil
	}
	if t.batch {
		return nil, refuse(http.StatusBadRequest, "batch tokens cannot be revoked")
	}
	f.drop(t)
	return nil, nil
}
