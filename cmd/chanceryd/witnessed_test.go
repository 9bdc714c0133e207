package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
	"chancery/signer/api"
)

// vkeys returns the log keys that the daemon publishes.
func (d *chanceryd) vkeys() (vkeys []string, keys []note.Verifier) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "audit.vkey"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, vkey := range strings.Fields(string(text)) {
		key, err := audit.ParseVKey(vkey)
		if err != nil {
			d.t.Fatal(err)
		}
		vkeys, keys = append(vkeys, vkey), append(keys, key)
	}
	return vkeys, keys
}

// A witnessStand serves a witness at an address that stays when the witness changes.
type witnessStand struct {
	t   *testing.T
	dir string
	url string
	now atomic.Pointer[witness.Server]
}

func newWitnessStand(t *testing.T, keys ...note.Verifier) *witnessStand {
	t.Helper()
	s := &witnessStand{t: t, dir: t.TempDir()}
	s.knows(keys...)
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.now.Load().ServeHTTP(w, r) }))
	s.url = served.URL
	t.Cleanup(func() {
		served.Close()
		if err := s.now.Load().Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// knows has the witness know these log keys from now on.
func (s *witnessStand) knows(keys ...note.Verifier) {
	s.t.Helper()
	if old := s.now.Load(); old != nil {
		if err := old.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	next, err := witness.OpenServer(witness.ServerConfig{Dir: s.dir, Name: "auditor.example/w1", Logs: keys})
	if err != nil {
		s.t.Fatal(err)
	}
	s.now.Store(next)
}

// witnessFor serves a witness of the daemon's logs, and has the daemon's next start
// know it, beside others whose lines of the policy are given, and an anchor.
func (d *chanceryd) witnessFor(others ...string) (s *witnessStand, anchor string) {
	d.t.Helper()
	vkeys, keys := d.vkeys()
	s = newWitnessStand(d.t, keys...)
	var policy strings.Builder
	for _, vkey := range vkeys {
		fmt.Fprintf(&policy, "log %s\n", vkey)
	}
	fmt.Fprintf(&policy, "witness w1 %s %s\n%squorum w1\n", s.now.Load().Key().VKey(), s.url, strings.Join(others, ""))
	file := filepath.Join(d.dir, "witness.policy")
	if err := os.WriteFile(file, []byte(policy.String()), 0o600); err != nil {
		d.t.Fatal(err)
	}
	anchor = filepath.Join(d.dir, "anchor")
	d.edit("\nkeystores:\n", fmt.Sprintf("\naudit:\n  witnesses: {policy: %s, every: 500ms}\n  anchors: [{file: %s, every: 500ms}, {file: /dev/full}]\nkeystores:\n", file, anchor))
	return s, anchor
}

// silentWitness returns the line of a witness that takes connections and never says
// anything.
func silentWitness(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	key, err := witness.LoadKey(t.TempDir(), "silent.example/w2")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("witness w2 %s http://%s\n", key.Key.VKey(), l.Addr())
}

// witnessed verifies the log and returns how far each of its logs is witnessed.
func (d *chanceryd) witnessed(s *witnessStand) map[string]int64 {
	d.t.Helper()
	vkeys, _ := d.vkeys()
	report, err := audit.Verify(d.t.Context(), filepath.Join(d.dir, "audit"), audit.Options{
		Keys: vkeys, Witnesses: witness.AllOf([]audit.WitnessKey{s.now.Load().Key()}),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range report.Problems {
		d.t.Errorf("the log: %s", p)
	}
	sizes := make(map[string]int64)
	for _, l := range report.Logs {
		if l.Witnessed != nil {
			sizes[l.Name] = l.Witnessed.Size
		}
	}
	return sizes
}

// S11: the logs are cosigned by a witness that answers and sent to an anchor that
// takes them, while another of each hangs or fails, and nobody who signs waits for any.
func TestS11WitnessesAndAnchorsHoldUpNobody(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.sign(d.client("issuer"), "web", `{}`)
	d.stop()
	s, anchor := d.witnessFor(silentWitness(t))
	d = startDev(t, d.dir)
	c := d.crowd(4, 5*time.Millisecond, "web", "edge")
	c.atLeast(200)
	want := d.logged(audit.Filter{Log: "acts"})
	d.within(30*time.Second, "the witness has cosigned what the crowd did", func() error {
		if d.witnessed(s)["acts/"+time.Now().UTC().Format("2006-01")] < int64(len(want)) {
			return errNotYet
		}
		return nil
	})
	c.stop()
	if got := c.problems(false); len(got) > 0 {
		t.Errorf("%d requests failed, first %v", len(got), got[0].err)
	}
	d.within(30*time.Second, "the daemon tells of the two that do not take checkpoints", func() error {
		ready, words := d.readyz()
		if !ready || !strings.Contains(words, "[!]witnesses warning: ") || !strings.Contains(words, "[!]anchor file /dev/full warning: ") {
			return errors.New(words)
		}
		return nil
	})
	d.stop()
	_, keys := d.vkeys()
	kept, err := os.ReadFile(anchor)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(kept), "\n\n\u2014 "); n < 3 {
		t.Errorf("the anchor has %d notes:\n%s", n, kept)
	}
	d.wantKept(kept, keys)
}

// wantKept checks that the log fits every note that an anchor has.
func (d *chanceryd) wantKept(kept []byte, keys []note.Verifier) {
	d.t.Helper()
	var all []audit.Checkpoint
	rest := string(kept)
	for rest != "" {
		text, signatures, ok := strings.Cut(rest, "\n\n")
		if !ok {
			d.t.Fatalf("the anchor ends with %q", rest)
		}
		var lines string
		lines, rest, _ = strings.Cut(signatures, "\n\n")
		c, sig, err := audit.OpenCheckpoint([]byte(text+"\n\n"+lines+"\n"), keys)
		if err != nil || !sig.Verified {
			d.t.Fatalf("a note of the anchor: %v, %+v", err, sig)
		}
		all = append(all, c)
	}
	vkeys, _ := d.vkeys()
	report, err := audit.Verify(d.t.Context(), filepath.Join(d.dir, "audit"), audit.Options{Keys: vkeys, Kept: all})
	if err != nil || !report.OK() {
		d.t.Errorf("the log does not fit its anchor: %v, %+v", err, report)
	}
}

// A26: everything on the machine is put back to yesterday, the token too. Nothing
// there can tell; the witness does, and it is entered, once.
func TestA26OnlyAWitnessKnowsToday(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.keySets()
	d.stop()
	s, _ := d.witnessFor()
	yesterday := t.TempDir()
	d.copyState(yesterday)
	copyModes(t, tokenHome(d.dir), filepath.Join(yesterday, "softhsm"))
	d = startDev(t, d.dir)
	issuer := d.client("issuer")
	for range 20 {
		d.sign(issuer, "web", `{}`)
	}
	before := len(d.logged(audit.Filter{Log: "lifecycle"}))
	d.within(30*time.Second, "the witness has seen today", func() error {
		if d.witnessed(s)["lifecycle"] < int64(before) {
			return errNotYet
		}
		return nil
	})
	d.stop()

	d.restore(yesterday)
	if err := os.RemoveAll(tokenHome(d.dir)); err != nil {
		t.Fatal(err)
	}
	copyModes(t, filepath.Join(yesterday, "softhsm"), tokenHome(d.dir))
	d = startDev(t, d.dir)
	d.within(30*time.Second, "the witness contradicts", func() error {
		ready, words := d.readyz()
		if !strings.Contains(words, "[!]witnesses warning: ") || !strings.Contains(words, "contradicts") || !ready {
			return errors.New(words)
		}
		return nil
	})
	d.sign(d.client("issuer"), "web", `{}`) // a witness is somebody else: it stops nobody
	d.stop()
	if n := len(d.logged(audit.Filter{Action: keystore.ActAuditWitness, Outcome: keystore.OutcomeFailed})); n == 0 || n > 2 {
		t.Errorf("%d entries of a contradiction, want one for each log", n)
	}
}

// A log key is followed by another while a witness knows the first only: both sign
// until the witness has answered for the second, however long that takes. An auditor
// who has the first key verifies all of it.
func TestALogKeyChangesUnderAWitness(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	d.stop()
	s, _ := d.witnessFor()
	first, keys := d.vkeys()
	s.knows(keys[0])
	d = startDev(t, d.dir)
	rotation, err := d.client("operator").Rotate(t.Context(), "audit", rotateFor("a drill"))
	if err != nil {
		t.Fatal(err)
	}
	issuer := d.client("issuer")
	d.within(time.Minute, "two keys sign, and the witness goes on", func() error {
		d.sign(issuer, "web", `{}`)
		before := int64(len(d.logged(audit.Filter{Log: "lifecycle"})))
		if n := d.signatures(); n != 2 || d.witnessed(s)["lifecycle"] < before-5 {
			return fmt.Errorf("%d signatures", n)
		}
		return nil
	})
	time.Sleep(5 * time.Second) // longer than caches hold a list of keys here: only the witness is waited for
	if n := d.signatures(); n != 2 {
		t.Errorf("%d keys sign before the witness knows the second", n)
	}
	waits := fmt.Sprintf("witness w1 to cosign what version %d signs alone", rotation.To.Version)
	if _, words := d.readyz(); !strings.Contains(words, fmt.Sprintf("[+]keyset audit ok: \"version %d waits for %s", rotation.From.Version, waits)) {
		t.Errorf("nothing tells what the handover waits for:\n%s", words)
	}
	if plan, err := d.client("operator").Plan(t.Context(), "audit"); err != nil || !waitsFor(plan, handOver, waits) {
		t.Errorf("of what the handover waits for: %+v, %v", plan, err)
	}
	_, keys = d.vkeys()
	s.knows(keys...)
	d.within(time.Minute, "the second key signs alone, and the first is kept in a handover", func() error {
		d.sign(issuer, "web", `{}`)
		found, err := filepath.Glob(filepath.Join(d.dir, "audit", "lifecycle", "handover-*"))
		if err != nil || len(found) == 0 || d.signatures() != 1 {
			return fmt.Errorf("%v, %d signatures, %w", found, d.signatures(), errNotYet)
		}
		return nil
	})
	signed := int64(len(d.logged(audit.Filter{Log: "lifecycle"})))
	d.within(time.Minute, "the witness cosigns what the second signs", func() error {
		d.sign(issuer, "web", `{}`)
		if d.witnessed(s)["lifecycle"] < signed {
			return errNotYet
		}
		return nil
	})
	d.stop()
	report, err := audit.Verify(t.Context(), filepath.Join(d.dir, "audit"), audit.Options{Keys: first[:1]})
	if err != nil || !report.OK() || report.Logs[0].Announced == "" {
		t.Errorf("by the first key alone: %v, %+v", err, report)
	}
}

// waitsFor reports whether a step of a plan waits for that.
func waitsFor(plan *api.Plan, step, text string) bool {
	return slices.ContainsFunc(plan.Waits, func(w api.Wait) bool { return w.Step == step && strings.HasPrefix(w.Text, text) })
}

// signatures returns how many log keys signed the checkpoint of lifecycle.
func (d *chanceryd) signatures() int {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "audit", "lifecycle", "checkpoint"))
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Count(string(b), "\n\u2014 ")
}

// copyModes copies a directory with the modes of its files.
func copyModes(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
