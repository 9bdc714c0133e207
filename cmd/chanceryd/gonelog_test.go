package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// S12: the journal of acts is renamed, or another file put in its place, while
// clients sign. Nothing leaves until the original is back, and then everything goes
// on by itself.
func TestS12JournalGoneUnderLoad(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.crowd(8, 2*time.Millisecond, "web", "edge")
	c.atLeast(50)
	month := filepath.Join(d.dir, "audit", "acts", time.Now().UTC().Format("2006-01"))
	journals, err := filepath.Glob(filepath.Join(month, "journal-*"))
	if err != nil || len(journals) == 0 {
		t.Fatal(journals, err)
	}
	last := journals[len(journals)-1]
	for _, what := range []string{"renamed", "replaced by a copy"} {
		if err := os.Rename(last, last+".1"); err != nil {
			t.Fatal(err)
		}
		if what != "renamed" {
			copyFile(t, last+".1", last)
		}
		d.within(10*time.Second, what+": nothing is signed", func() error {
			_, err := d.client("issuer").SignJWT(t.Context(), api.SignJWTRequest{KeySet: "web", Claims: []byte(`{}`)})
			if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != api.CodeAuditUnavailable {
				return fmt.Errorf("%w: %v", errNotYet, err)
			}
			return nil
		})
		before := c.tokens()
		time.Sleep(200 * time.Millisecond)
		if now := c.tokens(); now != before {
			t.Errorf("%s: %d tokens were released", what, now-before)
		}
		if err := os.Rename(last+".1", last); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s, and put back: signing again after %v", what, c.successAfter(time.Now(), 10*time.Second))
	}
	c.stop()
	wantUnavailable(t, c.problems(false), api.CodeAuditUnavailable)
	d.wantVerified(c.replies())
	d.compared()
	d.stop()
	d.proven()
	d.wantRecorded(c.replies())
	d.wantAccounted()
}

// A CA's requests, one after the other by each of its clients, with what came of
// them.
type requesters struct {
	stopped atomic.Bool
	wg      sync.WaitGroup
	mu      sync.Mutex
	got     []*api.SignCSRReply
}

func (d *chanceryd) requesters(n int, csr string) *requesters {
	r := &requesters{}
	for range n {
		c := d.client("ca")
		r.wg.Go(func() {
			for !r.stopped.Load() {
				reply, err := c.SignCSR(context.Background(), api.SignCSRRequest{Authority: "devices", Profile: "tls", CSR: csr}, "")
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				r.mu.Lock()
				r.got = append(r.got, reply)
				r.mu.Unlock()
			}
		})
	}
	return r
}

func (r *requesters) stop() []*api.SignCSRReply {
	r.stopped.Store(true)
	r.wg.Wait()
	return r.got
}

// S13, I1: the daemon is killed again and again while it issues certificates. Every
// certificate that somebody received is in the verified log, and every intent has an
// outcome, be it that nobody knows, which counts as issued.
func TestS13KilledWhileItIssues(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr := requestFor(t, key, func(*x509.CertificateRequest) {})
	var kept []*api.SignCSRReply
	for range soak(t, 4, 60, "kills") {
		d := startDev(t, dir)
		r := d.requesters(8, csr)
		time.Sleep(200*time.Millisecond + time.Duration(mathrand.Int64N(int64(500*time.Millisecond))))
		d.kill()
		kept = append(kept, r.stop()...)
	}
	d := startDev(t, dir)
	d.compared()
	d.stop()
	d.wantAccounted()
	issued, open, unknown := make(map[string]audit.Entry), make(map[string]bool), 0
	for _, e := range d.logged(audit.Filter{Log: "acts", Action: keystore.ActSignCSR}) {
		switch e.Outcome {
		case keystore.OutcomeIntent:
			open[e.ID] = true
			continue
		case keystore.OutcomeDone:
			issued[e.Serial] = e
		case keystore.OutcomeUnknown:
			unknown++
		}
		delete(open, e.ID)
	}
	for id := range open {
		t.Errorf("what became of intent %s is not entered", id)
	}
	for _, reply := range kept {
		if _, ok := new(big.Int).SetString(reply.Serial, 16); !ok || issued[reply.Serial].NotAfter != reply.NotAfter.Unix() {
			t.Errorf("certificate %s was received, and its entry is %+v", reply.Serial, issued[reply.Serial])
		}
	}
	if len(kept) == 0 {
		t.Error("no certificate was issued: nothing was shown")
	}
	t.Logf("%d certificates received, %d entered as issued, %d as unknown", len(kept), len(issued), unknown)
}
