package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"chancery/signer/client"
)

// A party relies on tokens and verifies them with a library and a cache of its
// own.
type party struct {
	name    string
	keeps   string // what it does with a key set
	keysets []string
	wrong   bool // it keeps a set for longer than anyone may: tokens are rejected

	mu     sync.Mutex // one token at a time; guards all below
	verify func(issuer, token string) error

	verified, rejected, unavailable, late int
}

// errNoKeys is a verification that had no keys to verify with: it says nothing
// of the token.
var errNoKeys = errors.New("no key set")

// parties are the verifiers there are on this machine. Those that keep a key set
// for longer than it says ask again at a kid they do not know; those that do not
// ask keep it exactly as long. One does neither, and shows that it cannot.
func (d *chanceryd) parties() []*party {
	const exactly, longer = "for max-age", "for longer than max-age, and asks again at an unknown kid"
	all := []*party{
		{name: "go-jose, strict", keeps: exactly + ", to A if it cannot ask, and never asks earlier", keysets: fastSets, verify: d.strict(0)},
		{name: "go-jose, too long", keeps: "for 20 s, which is wrong, and never asks earlier", keysets: fastSets, verify: d.strict(20 * time.Second), wrong: true},
		{name: "chancery's client", keeps: exactly + ", and asks again at an unknown kid", keysets: fastSets, verify: d.own()},
		{name: "go-oidc", keeps: longer + " only", keysets: fastSets, verify: d.goOIDC()},
	}
	if _, err := os.Stat("/usr/lib/python3/dist-packages/jwt/jwks_client.py"); err != nil {
		lacks(d.t, "no PyJWT with PyJWKClient (Debian: python3-jwt, python3-cryptography)")
	}
	all = append(all,
		&party{name: "PyJWT, lifespan 2", keeps: exactly + ", and asks again at an unknown kid", keysets: fastSets, verify: d.driver("/usr/bin/python3", "testdata/pyjwt.py", "2")},
		&party{name: "PyJWT, as it comes", keeps: longer, keysets: fastSets, verify: d.driver("/usr/bin/python3", "testdata/pyjwt.py")},
	)
	node, err := exec.LookPath("node")
	if err != nil || os.Getenv("NODE_VERIFIERS") == "" {
		d.t.Log("jose and jwks-rsa are left out: NODE_VERIFIERS names no directory with their packages, or there is no node (scripts/lib.sh, node_verifiers)")
		return all
	}
	return append(all,
		&party{name: "jose (npm)", keeps: exactly + ", and asks again at an unknown kid, twice a minute at most", keysets: fastSets, verify: d.driver(node, "testdata/node.mjs", "jose", "2")},
		&party{name: "jwks-rsa (npm)", keeps: exactly + ", each key by itself, and asks at one it does not have", keysets: []string{"web", "legacy"}, verify: d.driver(node, "testdata/node.mjs", "jwks-rsa", "2")},
	)
}

// strict is a party that keeps a set for max-age, unless it is told otherwise. It
// never asks earlier, and goes on for as long as any cache may, if it cannot ask.
func (d *chanceryd) strict(keeps time.Duration) func(issuer, token string) error {
	algs := map[string]jose.SignatureAlgorithm{"web": jose.ES256, "legacy": jose.RS256, "edge": jose.EdDSA}
	caches := make(map[string]*caching)
	for _, keyset := range fastSets {
		caches[d.issuer(keyset)] = &caching{
			url: d.issuer(keyset) + "/jwks.json", issuer: d.issuer(keyset), algs: []jose.SignatureAlgorithm{algs[keyset]}, most: fastCache, keeps: keeps,
		}
	}
	return func(issuer, token string) error { return caches[issuer].verify(token, time.Now()) }
}

// own is a party with Chancery's client, which finds the keys by discovery.
func (d *chanceryd) own() func(issuer, token string) error {
	verifiers := make(map[string]*client.Verifier)
	for _, keyset := range fastSets {
		v, err := client.NewVerifier(client.VerifierConfig{Issuer: d.issuer(keyset)})
		if err != nil {
			d.t.Fatal(err)
		}
		verifiers[d.issuer(keyset)] = v
	}
	return func(issuer, token string) error {
		_, err := verifiers[issuer].Verify(context.Background(), token)
		if errors.Is(err, client.ErrKeysUnavailable) {
			return fmt.Errorf("%w: %w", errNoKeys, err)
		}
		return err
	}
}

// goOIDC is a party that reads discovery once, and keeps keys until it meets a
// kid it does not know.
func (d *chanceryd) goOIDC() func(issuer, token string) error {
	verifiers := make(map[string]*oidc.IDTokenVerifier)
	for _, keyset := range fastSets {
		provider, err := oidc.NewProvider(context.Background(), d.issuer(keyset))
		if err != nil {
			d.t.Fatal(err)
		}
		verifiers[d.issuer(keyset)] = provider.Verifier(&oidc.Config{SkipClientIDCheck: true})
	}
	return func(issuer, token string) error {
		_, err := verifiers[issuer].Verify(context.Background(), token)
		if err != nil && strings.Contains(err.Error(), "fetching keys") {
			return fmt.Errorf("%w: %w", errNoKeys, err)
		}
		return err
	}
}

// driver is a party in a process of its own: it is given an issuer and a token
// in a line, and answers in one.
func (d *chanceryd) driver(program, script string, args ...string) func(issuer, token string) error {
	d.t.Helper()
	path, err := filepath.Abs(script)
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(program, append([]string{path}, args...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			d.t.Errorf("%s: %v", script, err)
		}
	})
	answers := bufio.NewReader(out)
	return func(issuer, token string) error { return ask(in, answers, issuer, token) }
}

// ask asks a driver about one token.
func ask(in io.Writer, out *bufio.Reader, issuer, token string) error {
	if _, err := fmt.Fprintf(in, "%s %s\n", issuer, token); err != nil {
		return err
	}
	line, err := out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the driver's answer: %w", err)
	}
	var answer struct {
		Verified, Unavailable bool
		Error                 string
	}
	err = json.Unmarshal(line, &answer)
	switch {
	case err != nil || answer.Verified:
		return err
	case answer.Unavailable:
		return fmt.Errorf("%w: %s", errNoKeys, answer.Error)
	}
	return errors.New(answer.Error)
}

func (p *party) relies(keyset string) bool { return slices.Contains(p.keysets, keyset) }

// try verifies one token, once. It returns an error only if the token was live
// when the answer came and there is no excuse.
func (p *party) try(issuer string, a answer, excused func(from, to time.Time) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := time.Now()
	if !from.Before(a.reply.ExpiresAt) {
		p.late++
		return nil
	}
	err := p.verify(issuer, a.reply.Token)
	to := time.Now()
	switch {
	case err == nil:
		p.verified++
	case !to.Before(a.reply.ExpiresAt):
		p.late++
	case errors.Is(err, errNoKeys) && excused(from, to):
		p.unavailable++
	case p.wrong:
		p.rejected++
	default:
		p.rejected++
		return fmt.Errorf("%s: a token of %s, kid %s, %v after it was signed and %v before it expires: %w", p.name, a.keyset, a.reply.KID,
			to.Sub(a.answered).Round(time.Millisecond), a.reply.ExpiresAt.Sub(to).Round(time.Millisecond), err)
	}
	return nil
}

// report tells what a party did.
func (p *party) report(t *testing.T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.Logf("%s, keeps a set %s: %d verified, %d rejected, %d without keys while the daemon was down, %d too late to count",
		p.name, p.keeps, p.verified, p.rejected, p.unavailable, p.late)
	if p.verified == 0 {
		t.Errorf("%s verified nothing", p.name)
	}
	if p.wrong && p.rejected == 0 {
		t.Errorf("%s was never wrong: the others' success shows nothing", p.name)
	}
}
