package transittest

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An endpoint is what the engines of a kind answer at a path.
type endpoint struct {
	path   *regexp.Regexp // below the mount; its groups are the call's args
	fields map[string]kind
	do     map[operation]func(f *FakeServer, m *mount, c *call) (*reply, error)
	open   bool // needs no token
	sudo   bool
}

type (
	fields = map[string]kind
	ops    = map[operation]func(f *FakeServer, m *mount, c *call) (*reply, error)
)

// name is how Vault's engines spell names in paths.
const name = `(\w(?:[\w.-]*\w)?)`

func at(path string) *regexp.Regexp { return regexp.MustCompile("^" + path + "$") }

var systemEndpoints = []endpoint{
	{path: at(`mounts/(.+)`), fields: fields{"type": text, "description": text, "config": object, "options": object},
		do: ops{opUpdate: (*FakeServer).enable, opDelete: (*FakeServer).disable}},
	{path: at(`auth/(.+)`), fields: fields{"type": text, "description": text, "config": object}, sudo: true,
		do: ops{opUpdate: (*FakeServer).enable, opDelete: (*FakeServer).disable}},
	{path: at(`internal/ui/mounts/(.+)`), do: ops{opRead: (*FakeServer).showMount}, open: true},
	{path: at(`policies/acl/(.+)`), fields: fields{"policy": text},
		do: ops{opUpdate: (*FakeServer).putPolicy, opDelete: (*FakeServer).deletePolicy, opRead: (*FakeServer).readPolicy}},
	{path: at(`capabilities-self`), fields: fields{"paths": texts, "path": texts, "token": text},
		do: ops{opUpdate: (*FakeServer).capabilitiesSelf}},
}

var tokenEndpoints = []endpoint{
	{path: at(`create`), do: ops{opUpdate: (*FakeServer).createToken}, fields: fields{
		"policies": texts, "ttl": text, "explicit_max_ttl": text, "period": text, "renewable": flag, "num_uses": number,
		"type": text, "no_parent": flag, "no_default_policy": flag, "display_name": text, "meta": object, "id": text,
	}},
	{path: at(`lookup-self`), do: ops{opRead: (*FakeServer).lookupSelf, opUpdate: (*FakeServer).lookupSelf}, fields: fields{"token": text}},
	{path: at(`renew-self`), do: ops{opUpdate: (*FakeServer).renewSelf}, fields: fields{"increment": seconds, "token": text}},
	{path: at(`revoke-self`), do: ops{opUpdate: (*FakeServer).revokeSelf}},
	{path: at(`revoke`), do: ops{opUpdate: (*FakeServer).revoke}, fields: fields{"token": text}},
}

var roleFields = fields{
	"token_policies": texts, "token_ttl": seconds, "token_max_ttl": seconds, "token_period": seconds, "token_num_uses": number,
	"token_type": text, "token_explicit_max_ttl": seconds, "token_no_default_policy": flag, "bind_secret_id": flag,
	"policies": texts, "certificate": text, "display_name": text, "allowed_common_names": texts,
}

// login is the endpoint at which an auth method makes tokens.
func login(f fields, do func(*FakeServer, *mount, *call) (*reply, error)) endpoint {
	return endpoint{path: at(`login`), open: true, fields: f, do: ops{opUpdate: do}}
}

// endpoints are what engines answer, by their kind.
func endpoints(kind string) []endpoint {
	switch kind {
	case "system":
		return systemEndpoints
	case "token":
		return tokenEndpoints
	case "transit":
		return transitEndpoints
	case "approle":
		return []endpoint{
			{path: at(`login`), open: true, fields: fields{"role_id": text, "secret_id": text},
				do: ops{opUpdate: (*FakeServer).loginAppRole, opRead: (*FakeServer).loginAppRole}},
			{path: at(`role/` + name), fields: roleFields, do: ops{opUpdate: (*FakeServer).putRole}},
			{path: at(`role/` + name + `/role-id`), do: ops{opRead: (*FakeServer).readRoleID}},
			{path: at(`role/` + name + `/secret-id`), fields: fields{"metadata": text, "num_uses": number, "ttl": seconds},
				do: ops{opUpdate: (*FakeServer).makeSecretID}},
		}
	case "cert":
		return []endpoint{
			login(fields{"name": text}, (*FakeServer).loginCert),
			{path: at(`certs/` + name), fields: roleFields, do: ops{opUpdate: (*FakeServer).putRole}},
		}
	case "kubernetes", "jwt":
		return []endpoint{login(fields{"role": text, "jwt": text}, (*FakeServer).loginJWT)}
	}
	return nil
}

func find(kind, path string) (*endpoint, []string) {
	for _, e := range endpoints(kind) {
		if m := e.path.FindStringSubmatch(path); m != nil {
			return &e, m[1:]
		}
	}
	return nil, nil
}

// version is the Vault that the test server is like.
const version = "1.21.1"

func (f *FakeServer) health(r *http.Request) answer {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return emptyError(http.StatusMethodNotAllowed)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	status := http.StatusOK
	standbyOK, _ := strconv.ParseBool(r.URL.Query().Get("standbyok"))
	switch {
	case f.standby == http.StatusNotImplemented:
		status = f.standby
	case f.sealed:
		status = http.StatusServiceUnavailable
	case f.standby == http.StatusTooManyRequests && standbyOK:
	case f.standby != 0:
		status = f.standby
	}
	body := map[string]any{
		"initialized": status != http.StatusNotImplemented, "sealed": f.sealed || f.standby == http.StatusNotImplemented,
		"standby": !f.sealed && f.standby != 0, "performance_standby": f.standby == 473,
		"replication_performance_mode": "disabled", "replication_dr_mode": "disabled",
		"server_time_utc": f.now().Unix(), "version": version, "enterprise": f.spaces != nil,
		"echo_duration_ms": 0, "clock_skew_ms": 0, "replication_primary_canary_age_ms": 0,
	}
	if f.standby == 472 {
		body["replication_dr_mode"] = "secondary"
	}
	if !f.sealed && status != http.StatusNotImplemented {
		body["cluster_name"], body["cluster_id"] = "vault-cluster-test", "00000000-0000-4000-8000-000000000000"
	}
	return answer{status: status, body: body}
}

func (f *FakeServer) sealStatus(r *http.Request) answer {
	if r.Method != http.MethodGet {
		return emptyError(http.StatusMethodNotAllowed)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	body := map[string]any{
		"type": "shamir", "initialized": true, "sealed": f.sealed, "t": 1, "n": 1, "progress": 0, "nonce": "",
		"version": version, "build_date": "2026-01-01T00:00:00Z", "migration": false, "recovery_seal": false, "storage_type": "file",
	}
	if !f.sealed {
		body["cluster_name"], body["cluster_id"] = "vault-cluster-test", "00000000-0000-4000-8000-000000000000"
	}
	return answer{status: http.StatusOK, body: body}
}

// section is where the mounts are that a call is about.
func section(c *call) string {
	if strings.HasPrefix(c.path, "sys/auth/") {
		return "auth/"
	}
	return ""
}

func (f *FakeServer) enable(_ *mount, c *call) (*reply, error) {
	prefix := section(c)
	kinds := []string{"transit"}
	if prefix != "" {
		kinds = []string{"approle", "cert", "kubernetes", "jwt"}
	}
	kind := field[string](c, "type")
	path := strings.TrimSuffix(c.args[0], "/") + "/"
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == "" {
		return nil, refuse(http.StatusBadRequest, "backend type must be specified as a string")
	}
	if !slices.Contains(kinds, kind) {
		return nil, refuse(http.StatusBadRequest, "plugin not found in the catalog: %s", kind)
	}
	for other := range f.mounts {
		if strings.HasPrefix(other, prefix+path) || strings.HasPrefix(prefix+path, other) {
			return nil, refuse(http.StatusBadRequest, "path is already in use at %s", strings.TrimPrefix(other, prefix))
		}
	}
	f.mounts[prefix+path] = newMount(prefix+path, kind)
	return nil, nil
}

func (f *FakeServer) disable(_ *mount, c *call) (*reply, error) {
	prefix := section(c)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mounts, prefix+strings.TrimSuffix(c.args[0], "/")+"/")
	return nil, nil
}

// showMount answers at a path that needs no token to be routed, but one to be
// answered.
func (f *FakeServer) showMount(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.authenticate(c); err != nil {
		return nil, err
	}
	path := strings.Trim(c.args[0], "/") + "/"
	m := f.mountOf(path)
	if m == nil || !f.reaches(c.token, m.path) {
		return nil, refuse(http.StatusForbidden, "preflight capability check returned 403, please ensure client's policies grant access to path %q", path)
	}
	const day = 24 * time.Hour
	return &reply{data: map[string]any{
		"type": m.kind, "description": "", "accessor": m.accessor, "local": false, "seal_wrap": false,
		"external_entropy_access": false, "options": map[string]any{}, "uuid": m.uuid, "plugin_version": "",
		"running_plugin_version": "v" + version + "+builtin.vault", "running_sha256": "", "deprecation_status": "supported",
		"config": map[string]any{"default_lease_ttl": int(32 * day / time.Second), "max_lease_ttl": int(32 * day / time.Second), "force_no_cache": false},
		"path":   strings.TrimPrefix(m.path, "auth/"),
	}}, nil
}

func (f *FakeServer) putPolicy(_ *mount, c *call) (*reply, error) {
	p, err := parsePolicy(field[string](c, "policy"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "failed to parse policy: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.policies[strings.ToLower(c.args[0])] = p
	return nil, nil
}

func (f *FakeServer) deletePolicy(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.policies, strings.ToLower(c.args[0]))
	return nil, nil
}

func (f *FakeServer) readPolicy(_ *mount, c *call) (*reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.policies[strings.ToLower(c.args[0])]
	if p == nil {
		return nil, nil
	}
	return &reply{data: map[string]any{"name": strings.ToLower(c.args[0]), "policy": p.text}}, nil
}

func (f *FakeServer) capabilitiesSelf(_ *mount, c *call) (*reply, error) {
	paths := field[[]string](c, "paths")
	if len(paths) == 0 {
		paths = field[[]string](c, "path")
	}
	if len(paths) == 0 {
		return nil, refuse(http.StatusBadRequest, "paths must be supplied")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	data := make(map[string]any)
	for _, p := range paths {
		data[p] = f.capabilities(c.token, p)
	}
	if len(paths) == 1 {
		data["capabilities"] = data[paths[0]]
	}
	return &reply{data: data}, nil
}
