package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// mayCompromise lets the operator of a dev directory compromise, which dev does
// not by itself; the daemon is told.
func (d *chanceryd) mayCompromise() {
	d.t.Helper()
	d.edit("key.destroy", "key.compromise, key.destroy")
	before := d.reloads("ok")
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		d.t.Fatal(err)
	}
	d.within(20*time.Second, "the policy is in force", func() error {
		if d.reloads("ok") == before {
			return errors.New("not reloaded")
		}
		return nil
	})
}

// edit replaces text in the configuration.
func (d *chanceryd) edit(old, new string) {
	d.t.Helper()
	path := filepath.Join(d.dir, "config.yaml")
	b, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(b), old) {
		d.t.Fatalf("%q is not in the configuration: %v", old, err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, new)), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// unpublished waits until a key set, which goes on to be served, has not the kid,
// for a second at the most.
func (d *chanceryd) unpublished(keyset, kid string) {
	d.t.Helper()
	d.within(time.Second, "the kid has left the published set", func() error {
		resp, err := http.Get(d.issuer(keyset) + "/jwks.json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), `{"keys":[`) {
			return fmt.Errorf("status %d: %s: %v", resp.StatusCode, body, err)
		}
		if strings.Contains(string(body), kid) {
			return errors.New(string(body))
		}
		return nil
	})
}

// ripe waits until the successor of a key set has been served for A + S.
func (d *chanceryd) ripe(keyset string) {
	d.t.Helper()
	ops := d.client("operator")
	d.within(20*time.Second, "the successor may sign", func() error {
		for _, v := range d.keySet(ops, keyset).Versions {
			if v.State == "published" && v.PublishedAt != nil && time.Since(*v.PublishedAt) > 6*time.Second {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

// FAULTS A28: a key is in other hands while it signs under load. Nothing that it
// signed is released from the answer on, the world does not know it any more, and
// the successor signs.
func TestA28CompromiseUnderLoad(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	ops := d.client("operator")
	_, err := ops.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "a drill"})
	wantCode(t, err, api.CodeForbidden) // dev does not let its operator
	d.mayCompromise()
	_, err = d.client("issuer").CompromiseAll(t.Context(), api.CompromiseAllRequest{Reason: "a drill", Token: "hsm"})
	if err == nil {
		t.Error("an issuer may")
	}
	d.ripe("web")
	before := d.sign(d.client("issuer"), "web", `{}`)

	type released struct {
		kid string
		at  time.Time
	}
	var mu sync.Mutex
	var all []released
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range 4 {
		c := d.client("issuer")
		wg.Go(func() {
			for ctx.Err() == nil {
				reply, err := c.SignJWT(ctx, api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
				mu.Lock()
				if err == nil {
					all = append(all, released{reply.KID, time.Now()})
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	reply, err := ops.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "a laptop was stolen", KID: before.KID})
	answered := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	d.unpublished("web", before.KID)
	d.within(5*time.Second, "the successor signs", func() error {
		mu.Lock()
		defer mu.Unlock()
		if n := len(all); n == 0 || all[n-1].kid == before.KID {
			return errors.New("not yet")
		}
		return nil
	})
	stop()
	wg.Wait()
	late := 0
	for _, r := range all {
		if r.kid == before.KID && r.at.After(answered.Add(50*time.Millisecond)) { // what was on its way to here
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d of %d tokens were released after the answer", late, len(all))
	}
	c := reply.Compromised[0]
	if len(reply.Compromised) != 1 || c.KID != before.KID || c.StateBefore != "active" || c.Successor == nil || c.Gap != nil || !c.Recorded || !c.Durable || c.Entry == "" || c.CountedOn != "dev" {
		t.Errorf("%+v", c)
	}
	if c.LiveTokens == nil || *c.LiveTokens < 1 || c.LiveUntil == nil || c.Exposure.Caches == nil || c.Exposure.Caches.Sub(c.At) != 5*time.Second {
		t.Errorf("live %v until %v, exposure %+v", c.LiveTokens, c.LiveUntil, c.Exposure)
	}
	if len(reply.Next) == 0 || !slices.ContainsFunc(reply.Next, func(s string) bool { return strings.Contains(s, "audit list --last 0 --kid "+before.KID) }) {
		t.Errorf("next: %q", reply.Next)
	}
	if _, err := d.verifier("web").Verify(t.Context(), before.Token); !errors.Is(err, client.ErrUnknownKey) && !errors.Is(err, client.ErrExpired) {
		t.Errorf("its token: %v", err)
	}
	again, err := ops.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "once more", KID: before.KID})
	if err != nil || !again.Compromised[0].Already || again.Compromised[0].Entry != c.Entry || again.Compromised[0].Reason != "a laptop was stolen" {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActCompromise})); n != 1 {
		t.Errorf("%d entries", n)
	}
	_, err = ops.Resume(t.Context(), "web", api.OperateRequest{Reason: "it was found", KID: before.KID})
	wantCode(t, err, api.CodeNotFound)
}

// Without a successor that may sign there is a gap: callers are told how long,
// and it ends by itself.
func TestCompromiseLeavesAGap(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	d.mayCompromise()
	c, ops := d.client("issuer"), d.client("operator")
	d.keySets()
	rotated := d.sign(c, "web", `{}`)
	d.within(40*time.Second, "the successor has just taken over, and its own is new", func() error {
		if now := d.sign(c, "web", `{}`); now.KID == rotated.KID {
			return errors.New("not yet")
		}
		return nil
	})
	reply, err := ops.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "a laptop was stolen"})
	if err != nil {
		t.Fatal(err)
	}
	one := reply.Compromised[0]
	if one.Successor != nil || one.Gap == nil || one.KID == rotated.KID {
		t.Fatalf("%+v", one)
	}
	_, err = c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
	if p := wantCode(t, err, api.CodeKeySetSuspended); p.RetryAfter < 1 || p.RetryAfter > 20 {
		t.Errorf("Retry-After %d", p.RetryAfter)
	}
	d.unpublished("web", one.KID)
	d.sign(c, "edge", `{}`)
	d.within(60*time.Second, "the gap ends", func() error {
		_, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		return err
	})
	next := d.sign(c, "web", `{}`)
	if _, err := d.verifier("web").Verify(t.Context(), next.Token); err != nil {
		t.Errorf("the first token after the gap: %v", err)
	}
	for _, v := range d.keySet(ops, "web").Versions {
		if v.KID == next.KID && v.PublishedAt != nil && v.SignsFrom.Sub(*v.PublishedAt) < 5*time.Second {
			t.Errorf("version %d was published at %v and signs since %v: less than A + S", v.Version, v.PublishedAt, v.SignsFrom)
		}
		if v.KID == one.KID && (!v.Compromised || v.State != "retired") {
			t.Errorf("%+v", v)
		}
	}
}

// A token takes every key in it along, the log's own and successors; with
// sign_early the next ones sign as soon as they are served.
func TestCompromiseOfATokenSigningEarly(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	d.stop()
	d.edit("    purpose: jwt\n", "    purpose: jwt\n    on_gap: sign_early\n")
	d.edit("key.destroy", "key.compromise, key.destroy")
	d = startDev(t, d.dir)
	c, ops := d.client("issuer"), d.client("operator")
	d.ripe("web")
	before := d.sign(c, "web", `{}`)
	known := make(map[string]bool)
	for _, name := range []string{"web", "legacy", "edge"} {
		for _, v := range d.keySet(ops, name).Versions {
			if v.KID != "" {
				known[v.KID] = true
			}
		}
	}
	_, err := ops.CompromiseAll(t.Context(), api.CompromiseAllRequest{Reason: "r", Token: "attic"})
	wantCode(t, err, api.CodeNotFound)
	_, err = ops.CompromiseAll(t.Context(), api.CompromiseAllRequest{Reason: "r", Node: "dev"})
	wantCode(t, err, api.CodeConflict) // it is the only one
	reply, err := ops.CompromiseAll(t.Context(), api.CompromiseAllRequest{Reason: "its PIN was in a log", Token: "hsm"})
	if err != nil {
		t.Fatal(err)
	}
	took := make(map[string]string)
	for _, one := range reply.Compromised {
		took[one.KID] = one.StateBefore
		if one.KID != "" && !one.Recorded || one.Successor != nil {
			t.Errorf("%+v", one)
		}
	}
	for kid := range known {
		if took[kid] == "" {
			t.Errorf("%s is not among those that the token held", kid)
		}
	}
	d.unpublished("web", before.KID)
	var after *api.SignJWTReply
	d.within(30*time.Second, "a new key signs", func() (err error) {
		after, err = c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		return err
	})
	if known[after.KID] {
		t.Errorf("%s signs, which was in the token", after.KID)
	}
	for _, v := range d.keySet(ops, "web").Versions {
		if v.KID == after.KID && v.SignsFrom.Sub(*v.PublishedAt) >= 5*time.Second {
			t.Errorf("sign_early: version %d was published at %v and signs since %v only", v.Version, v.PublishedAt, v.SignsFrom)
		}
	}
	d.within(60*time.Second, "the log has a key again, to prove it with", func() error {
		if activeOf(d.keySet(ops, "audit")).KID == "" {
			return errNotYet
		}
		return nil
	})
}

// Stopping needs no log: the kid is gone at once, and the record follows. The
// authority of a CA signs no more and has left ca.pem.
func TestCompromiseWhileTheLogIsDown(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.mayCompromise()
	c, ops := d.client("issuer"), d.client("operator")
	d.keySets()
	before := d.sign(c, "web", `{}`)
	journal := filepath.Join(d.dir, "audit", "lifecycle", "journal-1")
	if err := os.Rename(journal, journal+".away"); err != nil {
		t.Fatal(err)
	}
	reply, err := ops.Compromise(t.Context(), "web", api.CompromiseRequest{Reason: "a laptop was stolen"})
	if err != nil {
		t.Fatal(err)
	}
	one := reply.Compromised[0]
	if one.Recorded || !one.Durable || one.Entry != "" || one.KID != before.KID || len(reply.Next) == 0 || !strings.Contains(reply.Next[0], "not on record") {
		t.Errorf("%+v\nnext %q", one, reply.Next)
	}
	d.unpublished("web", before.KID)
	if _, err = c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)}); err == nil {
		t.Error("it signs")
	}
	_, err = ops.Resume(t.Context(), "web", api.OperateRequest{Reason: "no doubt", KID: before.KID})
	if err == nil {
		t.Error("it is resumed")
	}
	if err := os.Rename(journal+".away", journal); err != nil {
		t.Fatal(err)
	}
	d.within(30*time.Second, "the record follows", func() error {
		if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActCompromise, KID: keystore.KID(before.KID)})); n != 1 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	d.within(10*time.Second, "callers are told of the gap", func() error {
		_, err := c.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		p, ok := errors.AsType[*api.Problem](err)
		if !ok || p.Code != api.CodeKeySetSuspended || p.RetryAfter < 30*60 || p.RetryAfter > 36*60 {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	d.compromiseTheAuthority()
	d.kill()
	d = startDev(t, d.dir)
	d.unpublished("web", before.KID)
}

// compromiseTheAuthority ends the key of the authority devices.
func (d *chanceryd) compromiseTheAuthority() {
	d.t.Helper()
	pems := func() string {
		resp, err := http.Get(d.endpoints.Public + "/authorities/devices/ca.pem")
		if err != nil {
			d.t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	was := pems()
	reply, err := d.client("operator").Compromise(d.t.Context(), "devices", api.CompromiseRequest{Reason: "a laptop was stolen"})
	if err != nil {
		d.t.Fatal(err)
	}
	if one := reply.Compromised[0]; one.Gap == nil || one.Purpose != "ca" || !one.Recorded || !strings.Contains(strings.Join(reply.Next, "\n"), "rotation now devices") {
		d.t.Errorf("%+v\nnext %q", one, reply.Next)
	}
	d.within(time.Second, "its certificate has left ca.pem", func() error {
		if strings.Contains(pems(), strings.TrimSpace(was)) {
			return errors.New("it is there")
		}
		return nil
	})
}
