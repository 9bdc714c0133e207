package catalog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"errors"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/keystore"
)

func TestTheOutboxKeepsRecordsUntilTheyAreMarked(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		ctx := t.Context()
		full := keystore.Record{
			ID: strings.Repeat("0a", 16), Principal: "dev:spiffe:spiffe://chancery.dev/operator", Action: keystore.ActRotate,
			Outcome: keystore.OutcomeDone, KeySet: "web", KID: "k", Version: 1, State: "active", Rule: "rotation/1", Reason: "<asked> & \u2028",
			Exp: 1, Count: 2, Detail: map[string]string{"b": "2", "a": "1"},
		}
		change, err := c.Create(ctx, keySet("web"), full, record(keystore.ActKeySetCreate))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := c.Outbox(ctx)
		if err != nil || len(rows) != 2 {
			t.Fatalf("%v, %v", rows, err)
		}
		if diff := cmp.Diff(full, rows[0].Record); diff != "" {
			t.Error(diff)
		}
		if !recordIDForm().MatchString(rows[1].Record.ID) {
			t.Errorf("an empty id became %q", rows[1].Record.ID)
		}
		if rows[0].ID != change.Outbox[0] || rows[1].ID != change.Outbox[1] {
			t.Errorf("rows %v, change %v", rows, change)
		}
		for range 2 {
			if err := c.Mark(ctx, rows[0].ID, "log#1"); err != nil {
				t.Error(err)
			}
		}
		if err := c.Mark(ctx, rows[0].ID, "log#2"); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("another entry: %v", err)
		}
		if err := c.Mark(ctx, 99, "log#2"); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("no such row: %v", err)
		}
		left, err := c.Outbox(ctx)
		if err != nil || len(left) != 1 || left[0].ID != rows[1].ID {
			t.Errorf("left: %v, %v", left, err)
		}
		for id, want := range map[string]bool{full.ID: true, rows[1].Record.ID: true, strings.Repeat("ff", 16): false} {
			if got, err := c.Knows(ctx, id); err != nil || got != want {
				t.Errorf("knows %s: %v, %v", id, got, err)
			}
		}
		if _, err := c.Create(ctx, keySet("edge"), keystore.Record{ID: "short"}); !errors.Is(err, ErrIllegal) {
			t.Errorf("a malformed id: %v", err)
		}
	})
}

func certificate(serial string) Certificate {
	return Certificate{
		Serial: serial, Authority: "devices", Profile: "tls", Principal: "p", Version: 1, SPKIHash: keystore.SPKIHash{9},
		Names: []string{"a.devices.test", "b.devices.test"}, NotBefore: epoch, NotAfter: epoch.Add(time.Hour), Entry: "log#1",
	}
}

func TestACertificateIsAnIntentFirst(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		ctx := t.Context()
		if err := c.AddCertificate(ctx, certificate("0a")); err != nil {
			t.Fatal(err)
		}
		if err := c.AddCertificate(ctx, certificate("0a")); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("a serial again: %v", err)
		}
		want := certificate("0a")
		want.Status = StatusIntent
		if got, err := c.Certificate(ctx, "0a"); err != nil || !cmp.Equal(got, want) {
			t.Errorf("intent: %v, %s", err, cmp.Diff(want, got))
		}
		for range 2 {
			if err := c.FinishCertificate(ctx, "0a", StatusIssued, []byte("der"), "log#2"); err != nil {
				t.Fatal(err)
			}
		}
		want.Status, want.DER, want.Entry = StatusIssued, []byte("der"), "log#2"
		if got, err := c.Certificate(ctx, "0a"); err != nil || !cmp.Equal(got, want) {
			t.Errorf("issued: %v, %s", err, cmp.Diff(want, got))
		}
		if _, err := c.Certificate(ctx, "0b"); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("unknown serial: %v", err)
		}
		for _, tc := range []struct {
			name, from, to string
			ok             bool
		}{
			{"10", StatusFailed, StatusIssued, false}, {"11", StatusIssued, StatusFailed, false}, {"12", StatusIssued, StatusUnknown, false},
			{"13", StatusUnknown, StatusIssued, true}, {"14", StatusUnknown, StatusFailed, false}, {"15", StatusFailed, StatusFailed, true},
		} {
			der := map[string][]byte{StatusIssued: []byte("der")}
			if err := errors.Join(c.AddCertificate(ctx, certificate(tc.name)), c.FinishCertificate(ctx, tc.name, tc.from, der[tc.from], "")); err != nil {
				t.Fatal(err)
			}
			err := c.FinishCertificate(ctx, tc.name, tc.to, der[tc.to], "")
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, keystore.ErrOvertaken) {
				t.Errorf("%s to %s: %v", tc.from, tc.to, err)
			}
		}
		bad := certificate("0c")
		bad.Status = StatusIssued
		for name, err := range map[string]error{
			"born issued":         c.AddCertificate(ctx, bad),
			"upper case":          c.AddCertificate(ctx, certificate("0C")),
			"issued without DER":  c.FinishCertificate(ctx, "0a", StatusIssued, nil, ""),
			"failed with DER":     c.FinishCertificate(ctx, "0a", StatusFailed, []byte("der"), ""),
			"back to an intent":   c.FinishCertificate(ctx, "0a", StatusIntent, nil, ""),
			"made of no DER form": c.SetAuthorityCertificate(ctx, "web", 1, []byte("der")),
		} {
			if !errors.Is(err, ErrIllegal) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestS13AnIntentThatACrashLeftIsUnknown(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		enrol := func() {
			if _, err := c.Enrol(t.Context(), enrolment("a")); err != nil {
				t.Fatal(err)
			}
		}
		enrol()
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		if err := c.AddCertificate(t.Context(), certificate("0a")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		c = at.open(t)
		enrol()
		if got, err := c.Certificate(t.Context(), "0a"); err != nil || got.Status != StatusUnknown {
			t.Errorf("%q, %v", got.Status, err)
		}
		if reply, err := c.BeginIdempotent(t.Context(), key, [32]byte{2}, epoch); reply != nil || err != nil {
			t.Errorf("a request in progress was not forgotten: %q, %v", reply, err)
		}
	})
}

func TestS04ACertificateWhoseCommitWasLostIsLookedUp(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		after := func(ctx context.Context, conn *sql.Conn) error {
			return errors.Join(execCommit(ctx, conn), errors.New("lost"))
		}
		instead := func(context.Context, *sql.Conn) error { return errors.New("lost") }
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		for _, s := range []struct {
			name string
			do   func() error
		}{
			{"add", func() error { return c.AddCertificate(t.Context(), certificate("0a")) }},
			{"finish", func() error { return c.FinishCertificate(t.Context(), "0a", StatusIssued, []byte("der"), "") }},
			{"begin", func() error { _, err := c.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch); return err }},
			{"reply", func() error { return c.FinishIdempotent(t.Context(), key, []byte("reply")) }},
		} {
			c.commit = instead
			if err := s.do(); err == nil || !strings.Contains(err.Error(), "did not happen") {
				t.Errorf("%s, not made: %v", s.name, err)
			}
			c.commit = after
			if err := s.do(); err != nil {
				t.Errorf("%s, made: %v", s.name, err)
			}
		}
	})
}

func TestAnAuthorityCertificateIsOfItsKeyAndForEver(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		ctx := t.Context()
		ca := keySet("devices")
		ca.Purpose = keystore.PurposeCA
		mustCreate(t, c, ca)
		mustCreate(t, c, keySet("web"))
		pub, priv, _ := ed25519.GenerateKey(rand.Reader)
		for _, name := range []string{"devices", "web"} {
			step(t, c, name, 1, keystore.Pending)
		}
		_, err := c.Update(ctx, "devices", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
			v := &ks.Versions[0]
			advance(v, keystore.Published, epoch)
			v.SPKI, _ = keystore.MarshalPublic(pub)
			v.KID, _ = keystore.Thumbprint(pub)
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		sign := func(serial int64) []byte {
			template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: epoch, NotAfter: epoch.Add(time.Hour), IsCA: true}
			der, err := x509.CreateCertificate(rand.Reader, template, template, pub, priv)
			if err != nil {
				t.Fatal(err)
			}
			return der
		}
		der := sign(1)
		for range 2 {
			if err := c.SetAuthorityCertificate(ctx, "devices", 1, der); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.SetAuthorityCertificate(ctx, "devices", 1, sign(2)); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("another: %v", err)
		}
		if err := c.SetAuthorityCertificate(ctx, "devices", 2, der); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("no such version: %v", err)
		}
		if err := c.SetAuthorityCertificate(ctx, "web", 1, der); !errors.Is(err, ErrIllegal) {
			t.Errorf("another purpose: %v", err)
		}
		certs, err := c.AuthorityCertificates(ctx, "devices")
		if err != nil || len(certs) != 1 || !bytes.Equal(certs[1], der) {
			t.Errorf("%v, %v", certs, err)
		}
	})
}

func TestARequestIsAnsweredOnce(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		ctx := t.Context()
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		begin := func(key IdempotencyKey, body byte, after time.Duration) (string, error) {
			at.setClock(epoch.Add(after))
			reply, err := c.BeginIdempotent(ctx, key, [32]byte{body}, epoch.Add(after))
			return string(reply), err
		}
		expect := func(what string, reply string, err error, wantReply string, wantErr error) {
			t.Helper()
			if reply != wantReply || !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
				t.Errorf("%s: %q, %v", what, reply, err)
			}
		}
		reply, err := begin(key, 1, 0)
		expect("first", reply, err, "", nil)
		reply, err = begin(key, 1, 0)
		expect("meanwhile", reply, err, "", ErrIdempotencyInProgress)
		reply, err = begin(key, 2, 0)
		expect("meanwhile, another body", reply, err, "", ErrIdempotencyMismatch)
		for _, other := range []IdempotencyKey{{"q", "devices", "tls", "k"}, {"p", "other", "tls", "k"}, {"p", "devices", "mtls", "k"}} {
			reply, err = begin(other, 2, 0)
			expect("elsewhere", reply, err, "", nil)
		}
		if err := c.FinishIdempotent(ctx, key, []byte("reply")); err != nil {
			t.Fatal(err)
		}
		if err := c.FinishIdempotent(ctx, key, []byte("another")); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("finished twice: %v", err)
		}
		reply, err = begin(key, 1, 24*time.Hour-time.Microsecond)
		expect("a day later", reply, err, "reply", nil)
		reply, err = begin(key, 2, 24*time.Hour-time.Microsecond)
		expect("a day later, another body", reply, err, "", ErrIdempotencyMismatch)
		if err := c.ReleaseIdempotent(ctx, key); err != nil {
			t.Fatal(err)
		}
		reply, err = begin(key, 1, 0)
		expect("an answered request is not released", reply, err, "reply", nil)
		reply, err = begin(key, 2, 24*time.Hour)
		expect("forgotten", reply, err, "", nil)
		if err := c.ReleaseIdempotent(ctx, key); err != nil {
			t.Fatal(err)
		}
		reply, err = begin(key, 3, 24*time.Hour)
		expect("released", reply, err, "", nil)
		if _, err := begin(IdempotencyKey{Key: strings.Repeat("k", 256)}, 1, 0); !errors.Is(err, ErrIllegal) {
			t.Errorf("a long key: %v", err)
		}
	})
}

// It was: when an answer could not be kept, its key stayed in progress for a day
// or until a restart, and nobody was answering it.
func TestS10AKeyWhoseAnswerCouldNotBeKeptIsFree(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		full := errors.New("disk full")
		gone, leave := context.WithCancel(t.Context())
		leave()
		for _, tc := range []struct {
			name string
			ctx  context.Context
			end  func(context.Context, *Catalog) error
		}{
			{"finish, commit fails", t.Context(), func(ctx context.Context, c *Catalog) error { return c.FinishIdempotent(ctx, key, []byte("reply")) }},
			{"finish, never begins", gone, func(ctx context.Context, c *Catalog) error { return c.FinishIdempotent(ctx, key, []byte("reply")) }},
			{"release, commit fails", t.Context(), func(ctx context.Context, c *Catalog) error { return c.ReleaseIdempotent(ctx, key) }},
			{"release, never begins", gone, func(ctx context.Context, c *Catalog) error { return c.ReleaseIdempotent(ctx, key) }},
		} {
			t.Run(tc.name, func(t *testing.T) {
				c := at.another(t).open(t)
				begin := func(body byte) error {
					reply, err := c.BeginIdempotent(t.Context(), key, [32]byte{body}, epoch)
					if reply != nil {
						t.Errorf("a reply %q", reply)
					}
					return err
				}
				if err := begin(1); err != nil {
					t.Fatal(err)
				}
				c.commit = func(context.Context, *sql.Conn) error { return full }
				if err := tc.end(tc.ctx, c); err == nil {
					t.Fatal("it was kept")
				}
				if err := begin(3); !errors.Is(err, full) {
					t.Errorf("begun on a full disk: %v", err)
				}
				c.commit = execCommit
				if err := begin(2); err != nil {
					t.Errorf("the key is not free: %v", err)
				}
				if err := begin(2); !errors.Is(err, ErrIdempotencyInProgress) {
					t.Errorf("the key is not taken again: %v", err)
				}
				if err := begin(1); !errors.Is(err, ErrIdempotencyMismatch) {
					t.Errorf("the key is not the second request's: %v", err)
				}
				if err := c.FinishIdempotent(t.Context(), key, []byte("second")); err != nil {
					t.Error(err)
				}
				reply, err := c.BeginIdempotent(t.Context(), key, [32]byte{2}, epoch)
				if string(reply) != "second" || err != nil {
					t.Errorf("%q, %v", reply, err)
				}
			})
		}
	})
}

// A handler that panics neither finishes nor releases.
func TestAKeyNobodyEndedIsFreeAfterADay(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		for _, m := range []struct {
			at   time.Duration
			want error
		}{{0, nil}, {24*time.Hour - time.Microsecond, ErrIdempotencyInProgress}, {24 * time.Hour, nil}} {
			at.setClock(epoch.Add(m.at))
			if _, err := c.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch.Add(m.at)); !errors.Is(err, m.want) {
				t.Errorf("after %v: %v", m.at, err)
			}
		}
	})
}

// Who ended a request, and is slow to return, does not end the next one's claim.
func TestAClaimIsDroppedOnce(t *testing.T) {
	var c Catalog
	key := IdempotencyKey{"p", "devices", "tls", "k"}
	c.answering.take(key, epoch)
	drop := c.dropOnce(key)
	drop() // in its transaction
	if !c.answering.take(key, epoch) {
		t.Error("the claim was not dropped")
	}
	drop() // when it returns
	if c.answering.take(key, epoch) {
		t.Error("another's claim was dropped")
	}
}

// Whatever fails meanwhile, a key is never two callers' at once.
func TestAKeyHasOneAnswererAtATime(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		var commits, answering, answered atomic.Int32
		c.commit = func(ctx context.Context, conn *sql.Conn) error {
			switch commits.Add(1) % 4 {
			case 0:
				return errors.New("lost before")
			case 1:
				return errors.Join(execCommit(ctx, conn), errors.New("lost after"))
			}
			return execCommit(ctx, conn)
		}
		key := IdempotencyKey{"p", "devices", "tls", "k"}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					if reply, err := c.BeginIdempotent(t.Context(), key, [32]byte{1}, epoch); err != nil || reply != nil {
						continue
					}
					if answering.Add(1) != 1 {
						t.Error("two are answering")
					}
					answered.Add(1)
					runtime.Gosched()
					answering.Add(-1)
					_ = c.ReleaseIdempotent(t.Context(), key) // fails now and then
				}
			})
		}
		wg.Wait()
		if answered.Load() < 10 {
			t.Errorf("answered %d times", answered.Load())
		}
		if n := len(c.answering.since); n != 0 {
			t.Errorf("%d claims are left", n)
		}
	})
}

func TestTheMemoryOfALogNeverGoesBack(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		ctx := t.Context()
		for _, m := range []struct {
			size int64
			root byte
			want error
		}{{5, 1, nil}, {5, 1, nil}, {5, 2, keystore.ErrOvertaken}, {4, 1, keystore.ErrOvertaken}, {9, 3, nil}} {
			err := c.Remember(ctx, "localhost/audit/dev/lifecycle", m.size, [32]byte{m.root})
			if !errors.Is(err, m.want) || (err == nil) != (m.want == nil) {
				t.Errorf("size %d: %v", m.size, err)
			}
		}
		heads, err := c.Recall(ctx)
		if want := (map[string]Head{"localhost/audit/dev/lifecycle": {9, [32]byte{3}}}); err != nil || !cmp.Equal(heads, want) {
			t.Errorf("%v, %v", heads, err)
		}
	})
}

func TestASecretIsMadeOnce(t *testing.T) {
	each(t, func(t *testing.T, at *place) {
		c := at.open(t)
		var wg sync.WaitGroup
		found := make([][32]byte, 4)
		for i := range found {
			wg.Go(func() {
				var err error
				if found[i], err = c.Secret(t.Context(), "salt"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		other, err := c.Secret(t.Context(), "other")
		if err != nil || other == found[0] || other == [32]byte{} {
			t.Errorf("%x, %v", other, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := at.open(t).Secret(t.Context(), "salt")
		for i := range found {
			if err != nil || found[i] != again {
				t.Errorf("%x, then %x, %v", found[i], again, err)
			}
		}
	})
}
