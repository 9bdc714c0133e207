package transit

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// A secret is text that is not to be printed.
type secret string

func (secret) String() string       { return "(secret)" }
func (secret) GoString() string     { return "(secret)" }
func (secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// credentials reads what is to be shown to Vault.
func (l *login) credentials() (secret, error) {
	a := &l.cfg.Auth
	file := a.File
	if a.Method == MethodKubernetes && file == "" {
		file = KubernetesToken
	}
	if file == "" {
		return "", nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%s holds no token: one line of text (hint: write it anew)", file)
	}
	return secret(s), nil
}

// try logs in with cred.
func (l *login) try(ctx context.Context, cred secret) error {
	a := &l.cfg.Auth
	if a.Method == MethodToken {
		return l.adopt(ctx, cred)
	}
	body := map[string]string{}
	set := func(member, value string) {
		if value != "" {
			body[member] = value
		}
	}
	switch a.Method {
	case MethodAppRole:
		set("role_id", a.RoleID)
		set("secret_id", string(cred))
	case MethodCert:
		set("name", a.Role)
	case MethodKubernetes, MethodJWT:
		set("role", a.Role)
		set("jwt", string(cred))
	}
	mount := a.Mount
	if mount == "" {
		mount = string(a.Method)
	}
	reply, err := l.ask(ctx, "", &request{method: "POST", path: "auth/" + mount + "/login", body: body})
	if err != nil {
		return err
	}
	if reply.Auth == nil || reply.Auth.Token == "" {
		return &trouble{kind: refused, text: "the login gave no token"}
	}
	l.take(ctx, secret(reply.Auth.Token), time.Duration(reply.Auth.Lease)*time.Second, reply.Auth.Renewable, true, false)
	return nil
}

// adopt takes a token from a file, after a look at how long it lives.
func (l *login) adopt(ctx context.Context, token secret) error {
	reply, err := l.ask(ctx, token, &request{method: "GET", path: "auth/token/lookup-self"})
	if isKind(err, denied) {
		return fmt.Errorf("the token is no good, or may not look at itself, which Vault's default policy allows: %w", err)
	}
	if err != nil {
		return err
	}
	var data struct {
		TTL       int64   `json:"ttl"` // seconds, rounded
		Expires   *string `json:"expire_time"`
		Created   int64   `json:"creation_ttl"`
		Renewable bool    `json:"renewable"`
	}
	if err := reply.read(&data); err != nil {
		return err
	}
	if data.Expires != nil && data.TTL <= 0 { // not for ever
		return &trouble{kind: denied, text: "the token has run out"}
	}
	l.take(ctx, token, time.Duration(data.TTL)*time.Second, data.Renewable, false, data.TTL > 0 && data.TTL < data.Created/3)
	return nil
}

// take has a token used from now on; short says that it runs out.
func (l *login) take(ctx context.Context, token secret, lease time.Duration, renews, made, short bool) {
	for _, s := range l.cluster.servers {
		s.client.SetToken(string(token))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	short = short || token == l.token && l.warning != "" && lease < l.lease // as it was told already
	l.last++
	l.tries++
	l.number, l.token, l.lease, l.renews, l.made, l.suspects, l.tried = l.last, token, lease, renews, made, 0, nil
	l.expires = time.Time{}
	if lease > 0 {
		l.expires = l.cfg.Now().Add(spread(lease))
	}
	l.alarm(ctx, short, "")
	l.settle(nil)
}

// revoke ends a token that a login made, as far as that can be done quickly.
func (l *login) revoke() {
	l.mu.Lock()
	made := l.made && l.number != 0
	l.mu.Unlock()
	if !made || l.cluster.trouble() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s := l.cluster.pick(nil); s != nil {
		if _, err := s.send(ctx, &request{method: "POST", path: "auth/token/revoke-self", body: struct{}{}, within: time.Second}); err != nil {
			l.cfg.Log.Debug("revoking the Vault token failed", "keystore", l.cfg.Name, "err", err)
		}
	}
}
