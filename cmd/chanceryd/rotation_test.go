package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"chancery/signer/api"
	"chancery/signer/client"
)

// A caching is a verifier that fetches a key set only when its max-age is over,
// never at an unknown kid, and uses another library than ours.
type caching struct {
	url    string
	issuer string
	keys   jose.JSONWebKeySet
	until  time.Time
	algs   []jose.SignatureAlgorithm

	keeps time.Duration // 0: max-age, as it should
	most  time.Duration // how old a set may be that cannot be fetched anew; 0: max-age
	asked time.Time     // for keys
}

// fetch asks for the key set. If that fails, what was fetched before is as it was.
func (c *caching) fetch(now time.Time) error {
	resp, err := http.Get(c.url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	age, ok := strings.CutPrefix(resp.Header.Get("Cache-Control"), "public, max-age=")
	seconds, err := strconv.Atoi(age)
	if resp.StatusCode != http.StatusOK || !ok || err != nil {
		return fmt.Errorf("status %d, Cache-Control %q", resp.StatusCode, resp.Header.Get("Cache-Control"))
	}
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(resp.Body).Decode(&keys); err != nil {
		return err
	}
	c.keys, c.asked, c.until = keys, now, now.Add(cmp.Or(c.keeps, time.Duration(seconds)*time.Second))
	return nil
}

func (c *caching) verify(token string, now time.Time) error {
	if !now.Before(c.until) {
		if err := c.fetch(now); err != nil && !now.Before(c.asked.Add(c.most)) {
			return fmt.Errorf("%w: %w", errNoKeys, err)
		}
	}
	parsed, err := jwt.ParseSigned(token, c.algs)
	if err != nil {
		return err
	}
	var claims jwt.Claims
	if err := parsed.Claims(c.keys, &claims); err != nil {
		return fmt.Errorf("kid %s, a set of %d keys fetched for until %v: %w", parsed.Headers[0].KeyID, len(c.keys.Keys), c.until, err)
	}
	return claims.ValidateWithLeeway(jwt.Expected{Issuer: c.issuer, Time: time.Now()}, time.Second)
}

// relying is the parties that rely on one key set's tokens: they verify every
// token they were given again and again until it expires.
type relying struct {
	fetching *client.Verifier
	caching  *caching
	live     []*api.SignJWTReply
	checks   int
}

func (r *relying) pass(t *testing.T, keyset string) {
	for _, reply := range r.live {
		now := time.Now()
		if !now.Before(reply.ExpiresAt.Add(-200 * time.Millisecond)) { // it may expire while it is looked at
			continue
		}
		_, err := r.fetching.Verify(t.Context(), reply.Token)
		err = errors.Join(err, r.caching.verify(reply.Token, now))
		r.checks += 2
		if err != nil && time.Now().Before(reply.ExpiresAt) {
			t.Errorf("%s, %v before a token expires: %v", keyset, time.Until(reply.ExpiresAt).Round(time.Millisecond), err)
		}
	}
	r.live = slices.DeleteFunc(r.live, func(reply *api.SignJWTReply) bool { return !time.Now().Before(reply.ExpiresAt) })
}

// Tokens signed all the time over rotations of every key set verify at every
// moment until they expire, for who caches as long as it may, and for who asks
// again at an unknown kid.
func TestEveryTokenVerifiesOverRotations(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	want := soak(t, 2, 20, "rotations of each key set")
	algs := map[string]jose.SignatureAlgorithm{"web": jose.ES256, "legacy": jose.RS256, "edge": jose.EdDSA}
	var stopped atomic.Bool
	var mu sync.Mutex // guards signed, kids and tokens
	signed, kids, tokens := make(map[string][]*api.SignJWTReply), make(map[string]map[string]bool), 0
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stopped.Store(true)
	for i := range 4 {
		c := d.client("issuer")
		wg.Go(func() {
			for n := i; !stopped.Load(); n++ {
				keyset := slices.Sorted(maps.Keys(algs))[n%3]
				reply, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: keyset, Claims: json.RawMessage(`{"sub":"x"}`)})
				if err != nil {
					t.Errorf("signing with %s during a rotation: %v", keyset, err)
					return
				}
				mu.Lock()
				tokens++
				if kids[keyset] == nil {
					kids[keyset] = make(map[string]bool)
				}
				kids[keyset][reply.KID] = true
				signed[keyset] = append(signed[keyset], reply)
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	parties := make(map[string]*relying)
	for keyset, alg := range algs {
		parties[keyset] = &relying{fetching: d.verifier(keyset), caching: &caching{
			url: d.issuer(keyset) + "/jwks.json", issuer: d.issuer(keyset), algs: []jose.SignatureAlgorithm{alg},
		}}
	}
	rotated := func() bool {
		mu.Lock()
		defer mu.Unlock()
		for keyset := range algs {
			if len(kids[keyset]) <= want {
				return false
			}
		}
		return true
	}
	deadline := time.Now().Add(time.Duration(want+2) * 25 * time.Second)
	var over time.Time // when the last key's tokens have expired, too
	for over.IsZero() || time.Now().Before(over) {
		if over.IsZero() && rotated() {
			over = time.Now().Add(12 * time.Second)
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %d rotations of each key set: %v", want, kids)
		}
		for keyset, party := range parties {
			mu.Lock()
			party.live = append(party.live, signed[keyset]...)
			signed[keyset] = nil
			mu.Unlock()
			party.pass(t, keyset)
		}
		if t.Failed() {
			return
		}
	}
	checks := 0
	for _, party := range parties {
		checks += party.checks
	}
	mu.Lock()
	t.Logf("%d tokens over %d rotations of each key set, verified %d times until they expired", tokens, want, checks)
	mu.Unlock()
}

// Before it is first served, and under names there are not, a key set is 404
// and no cache keeps that; then it has an ETag, and 304 repeats the max-age.
func TestPublishedKeySets(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	d := launch(t, dir, "dev", "--dir", dir, "--fast")
	d.within(60*time.Second, "there is a configuration", func() error {
		d.endpoints.Public = publicURL(d)
		if d.endpoints.Public == "" {
			return errors.New("none yet")
		}
		return nil
	})
	before := 0
	d.within(60*time.Second, "the key set is served", func() error {
		resp, err := http.Get(d.issuer("legacy") + "/jwks.json")
		if err != nil {
			return err // the door is not open yet
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			before++
			if cc := resp.Header.Get("Cache-Control"); cc != "no-store" {
				t.Errorf("before it is served: Cache-Control %q", cc)
			}
			return errors.New("404")
		}
		return nil
	})
	t.Logf("404 and no-store %d times before the key set was served", before)
	d.awaitReady()
	get := func(path, etag string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.endpoints.Public+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", etag)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode == http.StatusNotModified && len(body) != 0 {
			t.Errorf("%s: %v, %q", path, err, body)
		}
		return resp
	}
	for _, path := range []string{"/issuers/nothing/jwks.json", "/issuers/devices/jwks.json", "/issuers/audit/jwks.json", "/"} {
		if resp := get(path, ""); resp.StatusCode != http.StatusNotFound || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d, %q", path, resp.StatusCode, resp.Header.Get("Cache-Control"))
		}
	}
	for _, path := range []string{"/issuers/web/jwks.json", "/issuers/web/.well-known/openid-configuration"} {
		d.within(10*time.Second, "304 for what has not changed", func() error {
			first := get(path, `"something else"`)
			again := get(path, first.Header.Get("ETag"))
			if first.StatusCode != http.StatusOK || first.Header.Get("Cache-Control") != "public, max-age=2" {
				return fmt.Errorf("%s: %d, %q", path, first.StatusCode, first.Header.Get("Cache-Control"))
			}
			if again.StatusCode != http.StatusNotModified || again.Header.Get("Cache-Control") != "public, max-age=2" || again.Header.Get("ETag") != first.Header.Get("ETag") {
				return fmt.Errorf("%s: then %d, %q", path, again.StatusCode, again.Header.Get("Cache-Control")) // or it changed between the two
			}
			return nil
		})
	}
}

// publicURL reads where the public door will be.
func publicURL(d *chanceryd) string {
	for line := range strings.Lines(readOrEmpty(d.configFile())) {
		if url, ok := strings.CutPrefix(line, "public_url: "); ok {
			return strings.TrimSpace(url)
		}
	}
	return ""
}

// A suspended key set signs nothing from the next request on, nothing activates
// in its stead, kill -9 does not undo it, and resume does.
func TestSuspension(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	c, ops := d.client("issuer"), d.client("operator")
	ctx := t.Context()
	_, err := ops.Suspend(ctx, "web", api.OperateRequest{Reason: "r", KID: "nothing"})
	wantCode(t, err, api.CodeNotFound)
	_, err = ops.Suspend(ctx, "web", api.OperateRequest{})
	wantCode(t, err, api.CodeMalformed)
	d.keySets() // every successor is published: while web's is made, the entry may come later
	first := d.sign(c, "web", `{}`)
	stopped, err := ops.Suspend(ctx, "web", api.OperateRequest{Reason: "a laptop was stolen"})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(c *client.Client) {
		t.Helper()
		_, err := c.SignJWT(ctx, api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		if p := wantCode(t, err, api.CodeKeySetSuspended); p.RetryAfter < 1 {
			t.Errorf("Retry-After %d", p.RetryAfter)
		}
	}
	refused(c)
	if !stopped.Suspended || !stopped.Durable || stopped.KID != first.KID || stopped.Entry == "" {
		t.Errorf("suspend answered %+v", stopped)
	}
	d.sign(c, "edge", `{}`) // the others go on
	d.kill()
	// It was: a start with a suspended key set waited two minutes for it to sign
	// before it said that it was ready.
	d = startDev(t, d.dir)
	c, ops = d.client("issuer"), d.client("operator")
	refused(c)
	set := d.keySet(ops, "web")
	due := time.Now().Add(21 * time.Second) // by then a rotation would have been due
	for time.Now().Before(due) {
		refused(c)
		time.Sleep(100 * time.Millisecond)
	}
	if now := activeOf(d.keySet(ops, "web")); now.KID != activeOf(set).KID || !now.Suspended {
		t.Errorf("while it is suspended, %s version %d became active (suspended: %v)", now.KID, now.Version, now.Suspended)
	}
	if _, err := d.verifier("web").Verify(ctx, first.Token); !errors.Is(err, client.ErrExpired) {
		t.Errorf("a suspended version stays known, and its token only expires: %v", err)
	}
	resumed, err := ops.Resume(ctx, "web", api.OperateRequest{Reason: "it was found"})
	if err != nil || resumed.Suspended || resumed.Entry == "" {
		t.Fatalf("resume: %+v, %v", resumed, err)
	}
	d.sign(c, "web", `{}`)
	d.within(30*time.Second, "rotation goes on", func() error {
		if reply := d.sign(c, "web", `{}`); reply.KID == first.KID {
			return errors.New("still the old version")
		}
		return nil
	})
	history, err := ops.History(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]api.Event)
	for i, e := range history.Events {
		told[e.Event] = e
		if e.Entry == "" || e.By == "" || i > 0 && e.At.Before(history.Events[i-1].At) {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	for event, reason := range map[string]string{"suspend": "a laptop was stolen", "resume": "it was found", "generate": "", "publish": "", "served": "", "activate": "", "retire": ""} {
		if e, ok := told[event]; !ok || e.Reason != reason && reason != "" || reason != "" && !strings.HasSuffix(e.By, "/operator") {
			t.Errorf("the history of %s: %+v", event, e)
		}
	}
}

func (d *chanceryd) keySet(c *client.Client, name string) *api.KeySet {
	d.t.Helper()
	set, err := c.KeySet(d.t.Context(), name)
	if err != nil {
		d.t.Fatal(err)
	}
	return set
}

func activeOf(set *api.KeySet) api.Version {
	for _, v := range set.Versions {
		if v.State == "active" {
			return v
		}
	}
	return api.Version{}
}

// A rotation asked for comes at the earliest safe moment; asked for at once, it
// is refused with the rule and the seconds, until that moment is now.
func TestRotationOnRequest(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	ctx, c, ops := t.Context(), d.client("issuer"), d.client("operator")
	now := api.OperateRequest{Reason: "r", When: "now"}
	_, err := ops.Rotate(ctx, "legacy", now)
	if err == nil { // it took this machine so long to come here; the next successor has only just been made
		_, err = ops.Rotate(ctx, "legacy", now)
	}
	old := d.sign(c, "legacy", `{}`)
	p := wantCode(t, err, api.CodeTooEarly)
	if p.Rule != 1 || p.RetryAfter < 1 || p.RetryAfter > 25 {
		t.Errorf("too early: rule %d, retry_after %d: %s", p.Rule, p.RetryAfter, p.Detail)
	}
	raw := post(t, d.httpWith(d.endpoints.Ops, d.pair("operator")), "/v1/keysets/legacy/rotate", `{"reason":"r","when":"now"}`)
	raw.want(t, "rotate now", api.CodeTooEarly)
	if raw.header.Get("Retry-After") == "" {
		t.Error("409 too_early without Retry-After")
	}
	if again := d.sign(c, "legacy", `{}`); again.KID != old.KID {
		t.Error("a refused rotation changed the key")
	}
	reply, err := ops.Rotate(ctx, "legacy", api.OperateRequest{Reason: "to see it"})
	if err != nil {
		t.Fatal(err)
	}
	if reply.From.KID != old.KID || reply.To.KID == "" || reply.To.Version != reply.From.Version+1 || reply.Entry == "" || time.Until(reply.SignsFrom) > 25*time.Second {
		t.Errorf("rotate answered %+v", reply)
	}
	plan, err := ops.Plan(ctx, "legacy")
	if err != nil || len(plan.Steps) == 0 {
		t.Fatalf("plan: %+v, %v", plan, err)
	}
	kinds := make(map[string]bool)
	for i, s := range plan.Steps {
		kinds[s.Step] = true
		if i > 0 && s.At.Before(plan.Steps[i-1].At) || s.Version < 1 {
			t.Errorf("step %d: %+v", i, s)
		}
	}
	if !kinds["activate"] || !kinds["remove"] {
		t.Errorf("the plan has no such steps: %+v", plan.Steps)
	}
	var signs time.Time
	d.within(30*time.Second, "the successor signs", func() error {
		if now := d.sign(c, "legacy", `{}`); now.KID != reply.To.KID {
			return fmt.Errorf("%s signs", now.KID)
		}
		signs = time.Now()
		return nil
	})
	if signs.Before(reply.SignsFrom) {
		t.Errorf("it signs at %v and was to from %v", signs, reply.SignsFrom)
	}
	t.Logf("the successor signed %v after the moment that was promised", signs.Sub(reply.SignsFrom).Round(time.Millisecond))
	if kids := d.published("legacy"); !slices.Contains(kids, old.KID) || !slices.Contains(kids, reply.To.KID) {
		t.Errorf("published: %v, want the old key %s while its tokens live and the new one %s", kids, old.KID, reply.To.KID)
	}
	// "now" is granted once the next successor has been known for long enough.
	d.within(30*time.Second, "rotate now is granted", func() error {
		reply, err := ops.Rotate(ctx, "legacy", api.OperateRequest{Reason: "now", When: "now"})
		if err != nil {
			wantCode(t, err, api.CodeTooEarly)
			return err
		}
		if now := d.sign(c, "legacy", `{}`); now.KID != reply.To.KID {
			t.Errorf("after rotate now %s signs, want %s", now.KID, reply.To.KID)
		}
		return nil
	})
	_, err = ops.Rotate(ctx, "legacy", api.OperateRequest{Reason: "r", When: "later"})
	wantCode(t, err, api.CodeMalformed)
	_, err = d.client("auditor").Rotate(ctx, "legacy", api.OperateRequest{Reason: "r"})
	wantCode(t, err, api.CodeForbidden)
}
