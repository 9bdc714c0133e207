package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
	"chancery/signer/client"
)

// noticedWithin is how long a step of the clock may go unnoticed.
const noticedWithin = 2 * time.Second

// S14, I15: a clock that is stepped stops signing, takes nothing back and makes
// nothing longer, and when it is put right all goes on by itself.
func TestS14AClockIsStepped(t *testing.T) {
	for what, step := range map[string]string{"an hour back": "-1h", "a year forward": "8760h"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			d := startDevAt(t, filepath.Join(tempDir(t), "d"), "0s")
			issuer, operator := d.client("issuer"), d.client("operator")
			first := d.sign(issuer, "web", `{"sub":"alice"}`)
			known := d.keySets()
			before, published := d.keySet(operator, "web"), d.publishedTwo("web")

			tokens := d.signUntilStepped(issuer, func() { setClock(t, d.dir, step) })
			for _, token := range append(tokens, first.Token) {
				if off := time.Since(time.Unix(claimsOf(t, token).IAT, 0)); off < -time.Second || off > time.Minute {
					t.Errorf("a token was issued %v ago by its own word", off)
				}
			}
			d.wantStopped(issuer, operator)
			if got := d.published("web"); !reflect.DeepEqual(got, published) {
				t.Errorf("published %q, before the step %q", got, published)
			}
			if _, err := d.verifier("web").Verify(t.Context(), first.Token); err != nil {
				t.Errorf("a token from before: %v", err)
			}
			d.wantSuspendable(operator)

			setClock(t, d.dir, "0s")
			d.within(noticedWithin, "signing goes on", func() error {
				_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
				return err
			})
			if ready, words := d.readyz(); !strings.Contains(words, "[+]clock ok") || ready { // edge is suspended
				t.Errorf("ready %v:\n%s", ready, words)
			}
			if got := d.keySets(); got != known {
				t.Errorf("afterwards\n%sbefore the step\n%s", got, known)
			}
			if after := d.keySet(operator, "web"); !reflect.DeepEqual(after.Versions, before.Versions) {
				t.Errorf("afterwards %+v\nbefore the step %+v", after.Versions, before.Versions)
			}
			d.wantClockEntries(keystore.ActClockStep, keystore.ActClockSettled)
		})
	}
}

// publishedTwo returns the kids of a key set once its successor is among them.
func (d *chanceryd) publishedTwo(keyset string) (kids []string) {
	d.t.Helper()
	d.within(20*time.Second, "the successor is published", func() error {
		if kids = d.published(keyset); len(kids) < 2 {
			return errNotYet
		}
		return nil
	})
	return kids
}

// signUntilStepped signs without a pause, has the clock stepped, and returns what
// was signed until that was noticed.
func (d *chanceryd) signUntilStepped(issuer *client.Client, step func()) (tokens []string) {
	d.t.Helper()
	var stepped time.Time
	for i := 0; ; i++ {
		if i == 20 {
			step()
			stepped = time.Now()
		}
		reply, err := issuer.SignJWT(d.t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		if err != nil {
			wantCode(d.t, err, api.CodeLeaseExpired)
			return tokens
		}
		tokens = append(tokens, reply.Token)
		if i > 20 && time.Since(stepped) > noticedWithin {
			d.t.Fatalf("it signs by a clock that was stepped %v ago", time.Since(stepped))
		}
	}
}

// wantStopped expects that nothing is signed and that everyone is told why.
func (d *chanceryd) wantStopped(issuer, operator *client.Client) {
	t := d.t
	t.Helper()
	for _, name := range []string{"web", "legacy", "edge"} {
		_, err := issuer.SignJWT(t.Context(), api.SignJWTRequest{KeySet: name, Claims: json.RawMessage(`{}`)})
		p := wantCode(t, err, api.CodeLeaseExpired)
		if p.RetryAfter < 1 || !strings.Contains(p.Detail, "wall clock") {
			t.Errorf("%s: %+v", name, p)
		}
	}
	_, err := operator.Rotate(t.Context(), "web", api.OperateRequest{Reason: "a drill"})
	wantCode(t, err, api.CodeLeaseExpired)
	if _, err := operator.Tokens(t.Context()); err != nil {
		t.Errorf("an operator looks at the tokens: %v", err)
	}
	if status, _ := d.get(d.endpoints.Admin + "/livez"); status != http.StatusOK {
		t.Errorf("livez: %d", status)
	}
	ready, words := d.readyz()
	if ready || !strings.Contains(words, "[-]clock failed") || !strings.Contains(words, "chancery clock confirm --reason WHY") || strings.Contains(words, "[-]catalog") {
		t.Errorf("ready %v:\n%s", ready, words)
	}
	if _, metrics := d.get(d.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "\nchancery_clock_ok 0\n") {
		t.Error("the metrics say that the clock is good")
	}
}

// wantSuspendable expects that a key set can be suspended all the same, durably
// and on record.
func (d *chanceryd) wantSuspendable(operator *client.Client) {
	d.t.Helper()
	reply, err := operator.Suspend(d.t.Context(), "edge", api.OperateRequest{Reason: "a drill"})
	if err != nil || !reply.Suspended || !reply.Durable || reply.Entry == "" {
		d.t.Errorf("suspending: %+v, %v", reply, err)
	}
}

// wantClockEntries expects these entries of the clock, in this order, and of a
// step with a time that it has not touched.
func (d *chanceryd) wantClockEntries(want ...keystore.Action) {
	d.t.Helper()
	d.within(5*time.Second, "the clock's changes are entered", func() error {
		var got []keystore.Action
		for _, e := range d.logged(audit.Filter{Log: "lifecycle"}) {
			if strings.HasPrefix(string(e.Action), "clock.") {
				got = append(got, e.Action)
			}
			if off := time.Since(e.Time); e.Action == keystore.ActClockStep && off.Abs() > time.Minute {
				return fmt.Errorf("a step was entered as of %v", e.Time)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("entered %q, want %q", got, want)
		}
		return nil
	})
}

// S14: an operator says that the new time is right, on record, and that outlasts
// the process.
func TestS14AClockIsConfirmed(t *testing.T) {
	t.Parallel()
	d := startDevAt(t, filepath.Join(tempDir(t), "d"), "0s")
	issuer, operator := d.client("issuer"), d.client("operator")
	_, err := operator.ClockConfirm(t.Context(), "nothing happened")
	wantCode(t, err, api.CodeConflict)
	_, err = d.client("auditor").ClockConfirm(t.Context(), "an auditor")
	wantCode(t, err, api.CodeForbidden)

	d.signUntilStepped(issuer, func() { setClock(t, d.dir, "1h") })
	reply, err := operator.ClockConfirm(t.Context(), "the host was paused")
	if err != nil || reply.Node != "dev" || reply.Offset < 3599.5 || reply.Offset > 3600.5 {
		t.Fatalf("%+v, %v", reply, err)
	}
	token := d.sign(issuer, "web", `{}`)
	if off := time.Until(time.Unix(claimsOf(t, token.Token).IAT, 0)); off < 59*time.Minute {
		t.Errorf("the token's time is %v ahead, want an hour", off)
	}
	d.wantClockEntries(keystore.ActClockStep, keystore.ActClockConfirm)
	confirmed := d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActClockConfirm})[0]
	if confirmed.Reason != "the host was paused" || !strings.HasSuffix(confirmed.Principal, "/operator") || confirmed.Rule != "operator" {
		t.Errorf("entered %+v", confirmed)
	}
	d.kill()
	d = startDevAt(t, d.dir, "1h")
	d.sign(d.client("issuer"), "web", `{}`)
	d.wantClockEntries(keystore.ActClockStep, keystore.ActClockConfirm)
}

// S14: a step that came while nobody looked is noticed at the start, which
// publishes and does not sign.
func TestS14SteppedWhileTheDaemonWasDown(t *testing.T) {
	t.Parallel()
	d := startDevAt(t, filepath.Join(tempDir(t), "d"), "0s")
	published := d.publishedTwo("web")
	d.kill()
	d = startDevAt(t, d.dir, "-1h")
	d.wantStopped(d.client("issuer"), d.client("operator"))
	if got := d.published("web"); !reflect.DeepEqual(got, published) {
		t.Errorf("published %q, before %q", got, published)
	}
	d.stop()
	d = startDevAt(t, d.dir, "-1h")
	d.wantStopped(d.client("issuer"), d.client("operator"))
	d.wantSuspendable(d.client("operator"))
	setClock(t, d.dir, "0s")
	d.within(noticedWithin, "signing goes on", func() error {
		_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: json.RawMessage(`{}`)})
		return err
	})
	d.wantClockEntries(keystore.ActClockStep, keystore.ActClockStep, keystore.ActClockSettled)
	d.kill()
	if err := os.WriteFile(filepath.Join(d.dir, "clock"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = startDevAt(t, d.dir, "1h")
	d.sign(d.client("issuer"), "web", `{}`) // a first start has nothing to compare with
	if !strings.Contains(d.log.String(), "what was kept of the clock cannot be read") {
		t.Error("nobody was told that the anchor was damaged")
	}
}

// A node whose clock nothing keeps right signs, and is not ready, unless the
// configuration says that it is.
func TestAnUnsynchronisedClock(t *testing.T) {
	t.Parallel()
	d := startDevAt(t, filepath.Join(tempDir(t), "d"), "0s")
	d.within(10*time.Second, "it is accepted, and the node ready", func() error {
		if ready, words := d.readyz(); !ready || !strings.Contains(words, "[+]clock synchronised ok: ") {
			return errors.New(words)
		}
		return nil
	})
	text, err := os.ReadFile(d.configFile())
	if err != nil {
		t.Fatal(err)
	}
	strict := strings.Replace(string(text), "accept_unsynchronised_clock: true", "accept_unsynchronised_clock: false", 1)
	if err := os.WriteFile(d.configFile(), []byte(strict), 0o600); err != nil {
		t.Fatal(err)
	}
	d.reload()
	if ready, words := d.readyz(); ready || !strings.Contains(words, "[-]clock synchronised failed") || strings.Count(words, "[-]") != 1 {
		t.Errorf("not accepted, and ready %v:\n%s", ready, words)
	}
	d.sign(d.client("issuer"), "web", `{}`)
	setClock(t, d.dir, "0s synchronised")
	d.within(noticedWithin, "the node is ready", func() error {
		if ready, words := d.readyz(); !ready {
			return errors.New(words)
		}
		return nil
	})
	if _, metrics := d.get(d.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "\nchancery_clock_synchronised 1\n") {
		t.Error("the metrics say that it is not synchronised")
	}
}
