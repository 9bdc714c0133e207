package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// soak returns the full count of a long scenario if CHANCERY_SOAK is 1, and
// otherwise the short one, and says which.
func soak(t *testing.T, short, full int, what string) int {
	t.Helper()
	if os.Getenv("CHANCERY_SOAK") == "1" {
		t.Logf("all %d %s", full, what)
		return full
	}
	t.Logf("%d of %d %s (CHANCERY_SOAK=1 for all)", short, full, what)
	return short
}

// An answer is a reply or an error, and when the request was sent and answered.
type answer struct {
	keyset         string
	reply          *api.SignJWTReply
	err            error
	sent, answered time.Time
}

// A crowd is clients that sign again and again, each on a connection of its
// own, and keep every answer.
type crowd struct {
	t       *testing.T
	stopped atomic.Bool
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows
	answers []answer
	signed  int // of them
}

// crowd starts n clients of the issuer, which sign with the key sets in turn and
// pause after each answer.
func (d *chanceryd) crowd(n int, pause time.Duration, keysets ...string) *crowd {
	c := &crowd{t: d.t}
	d.t.Cleanup(c.stop)
	for i := range n {
		cl, keyset := d.client("issuer"), keysets[i%len(keysets)]
		c.wg.Go(func() {
			for n := 0; !c.stopped.Load(); n++ {
				a := answer{keyset: keyset, sent: time.Now()}
				a.reply, a.err = cl.SignJWT(context.Background(), api.SignJWTRequest{
					KeySet: keyset, Claims: json.RawMessage(fmt.Sprintf(`{"sub":"client-%d","n":%d}`, i, n)),
				})
				a.answered = time.Now()
				c.mu.Lock()
				c.answers = append(c.answers, a)
				if a.err == nil {
					c.signed++
				}
				c.mu.Unlock()
				if a.err != nil {
					time.Sleep(time.Millisecond) // a client that asks again at once, and no more
				}
				time.Sleep(pause)
			}
		})
	}
	return c
}

// stop has the clients end after the answer they wait for.
func (c *crowd) stop() {
	c.stopped.Store(true)
	c.wg.Wait()
}

// all returns the answers so far.
func (c *crowd) all() []answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.answers) // nothing of it is written again
}

// replies returns the tokens that were received.
func (c *crowd) replies() (got []answer) {
	for _, a := range c.all() {
		if a.err == nil {
			got = append(got, a)
		}
	}
	return got
}

// tokens returns how many were received.
func (c *crowd) tokens() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signed
}

// problems returns the answers that were problems. Errors of the connection are
// among them if the daemon was to live; broken allows for them.
func (c *crowd) problems(broken bool) (got []answer) {
	c.t.Helper()
	for _, a := range c.all() {
		if a.err == nil {
			continue
		}
		if _, ok := errors.AsType[*api.Problem](a.err); !ok {
			if !broken {
				c.t.Errorf("no answer: %v", a.err)
			}
			continue
		}
		got = append(got, a)
	}
	return got
}

// successAfter waits for a token that was asked for after at, and returns how
// long after at it came.
func (c *crowd) successAfter(at time.Time, limit time.Duration) time.Duration {
	c.t.Helper()
	for deadline := at.Add(limit); ; time.Sleep(2 * time.Millisecond) {
		if a, ok := c.firstAfter(at); ok {
			return a.answered.Sub(at)
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("no token within %v", limit)
		}
	}
}

func (c *crowd) firstAfter(at time.Time) (first answer, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.answers) - 1; i >= 0 && c.answers[i].answered.After(at); i-- {
		if a := c.answers[i]; a.err == nil && a.sent.After(at) {
			first, ok = a, true
		}
	}
	return first, ok
}

// atLeast waits until the crowd has n tokens.
func (c *crowd) atLeast(n int) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); c.tokens() < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d tokens in 30 s, want %d", c.tokens(), n)
		}
	}
}

// wantVerified checks tokens as relying parties do, by the published keys. One
// that has expired is only looked up in the log, by wantRecorded.
func (d *chanceryd) wantVerified(answers []answer) {
	d.t.Helper()
	verifiers := make(map[string]*client.Verifier)
	for _, a := range answers {
		v, ok := verifiers[a.keyset]
		if !ok {
			v = d.verifier(a.keyset)
			verifiers[a.keyset] = v
		}
		_, err := v.Verify(d.t.Context(), a.reply.Token)
		if err != nil && time.Now().Before(a.reply.ExpiresAt) { // later its key may be gone as well
			d.t.Errorf("a token of %s, kid %s, issued at %v, expiring %v: %v", a.keyset, a.reply.KID, a.answered, a.reply.ExpiresAt, err)
		}
	}
}

// proven verifies the log of a daemon that has ended well: every entry is under
// a signature.
func (d *chanceryd) proven() *audit.Report {
	d.t.Helper()
	vkeys, err := os.ReadFile(filepath.Join(d.dir, "audit.vkey"))
	if err != nil {
		d.t.Fatal(err)
	}
	report, err := audit.Verify(d.t.Context(), filepath.Join(d.dir, "audit"), audit.Options{Keys: strings.Fields(string(vkeys))})
	if err != nil {
		d.t.Fatalf("verifying the log: %v", err)
	}
	if !report.OK() || report.Proven() != report.Entries() {
		d.t.Errorf("the log: %d of %d entries proven, key verified: %v, problems: %v", report.Proven(), report.Entries(), report.KeyVerified, report.Problems)
	}
	return report
}

// wantRecorded checks that every token stands in the log where its reply says,
// each in an entry of its own.
func (d *chanceryd) wantRecorded(answers []answer) {
	d.t.Helper()
	entries := make(map[string]audit.Entry)
	for at, err := range audit.Entries(filepath.Join(d.dir, "audit"), audit.Filter{Log: "acts", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeDone}) {
		if err != nil {
			d.t.Fatalf("reading the log: %v", err)
		}
		entries[at.Name()] = at.Entry
	}
	for _, a := range answers {
		e, ok := entries[a.reply.Entry]
		if !ok {
			d.t.Errorf("a token was released and entry %q is not in the log", a.reply.Entry)
			continue
		}
		delete(entries, a.reply.Entry) // two tokens do not share one
		claims := claimsOf(d.t, a.reply.Token)
		if e.JTI != claims.JTI || e.Exp != claims.Exp || string(e.KID) != a.reply.KID || e.KeySet != a.keyset {
			d.t.Errorf("entry %s is not of the token that names it: %+v", a.reply.Entry, e)
		}
	}
}

type tokenClaims struct {
	JTI string `json:"jti"`
	IAT int64  `json:"iat"`
	Exp int64  `json:"exp"`
	Iss string `json:"iss"`
}

func claimsOf(t *testing.T, token string) (c tokenClaims) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantUnavailable checks that problems are 503 and say when to come back.
func wantUnavailable(t *testing.T, answers []answer, codes ...api.Code) {
	t.Helper()
	seen := make(map[string]bool)
	for _, a := range answers {
		p := problem(t, a.err)
		ok := false
		for _, code := range codes {
			ok = ok || p.Code == code
		}
		if line := fmt.Sprint(p.Code, p.Status, p.RetryAfter); !seen[line] && (!ok || p.Status != http.StatusServiceUnavailable || p.RetryAfter < 1) {
			seen[line] = true
			t.Errorf("%s with status %d and Retry-After %d: %s, first at %s after %v", p.Code, p.Status, p.RetryAfter, p.Detail,
				a.answered.UTC().Format(time.RFC3339Nano), a.answered.Sub(a.sent).Round(time.Millisecond))
		}
	}
}

// get returns status and body of a plain GET.
func (d *chanceryd) get(url string) (int, string) {
	d.t.Helper()
	resp, err := http.Get(url)
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // it says where it hangs
		_ = d.ended()
		d.t.Fatalf("%v\n%s", err, d.log)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// readyz returns whether the daemon says it is ready, and its words.
func (d *chanceryd) readyz() (bool, string) {
	d.t.Helper()
	status, body := d.get(d.endpoints.Admin + "/readyz?verbose")
	return status == http.StatusOK, body
}

// published returns the kids of a key set as relying parties see them.
func (d *chanceryd) published(keyset string) []string {
	d.t.Helper()
	status, body := d.get(d.issuer(keyset) + "/jwks.json")
	if status != http.StatusOK {
		d.t.Fatalf("the key set of %s: status %d", keyset, status)
	}
	var set struct {
		Keys []struct{ KID string }
	}
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		d.t.Fatal(err)
	}
	var kids []string
	for _, k := range set.Keys {
		kids = append(kids, k.KID)
	}
	return kids
}
