package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/keystoretest"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// A house is a Service in memory behind its handlers.
type house struct {
	Config
	key *keystoretest.SoftKey
	set *keystore.KeySet

	mu       sync.Mutex // guards what follows
	refused  []keystore.Record
	entered  []keystore.Record
	observed []string
	openErr  error
	wrap     func(keystore.Key) keystore.Key // nil: the key as it is
	rotate   error
	asked    []string
	entries  error
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{key: keystoretest.NewKey(t, keystore.PurposeJWT, keystore.ES256)}
	spki, kid := h.key.SPKI(t)
	h.set = &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, Versions: []keystore.Version{
		{Number: 1, Algorithm: keystore.ES256, KID: kid, SPKI: spki, State: keystore.Active},
	}}
	p := testPolicy(t, policy.Revoked{})
	service, err := signer.New(signer.Config{
		Policy: func() *policy.Policy { return p },
		View:   func() (*keystore.View, error) { return keystore.NewView(1, noon, []*keystore.KeySet{h.set}), nil },
		Settings: func(string) (signer.Settings, bool) {
			return signer.Settings{Issuer: "https://localhost", MaxTTL: time.Hour}, true
		},
		Digests:   func(string) bool { return false },
		Authority: func(string) (signer.Authority, bool) { return signer.Authority{}, false },
		Keys:      h, Log: h, Horizons: h, Rotations: h, Tokens: h, Clock: h, Nodes: h, Certificates: noCertificates{},
		Now: at(noon),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Config = Config{
		Service: service, Log: slog.New(slog.DiscardHandler), Now: at(noon), Entries: h,
		Observe: func(route, code string, _ time.Duration) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.observed = append(h.observed, route+" "+code)
		},
	}
	return h
}

func (h *house) Open(context.Context, *keystore.KeySet, *keystore.Version) (keystore.Key, error) {
	if h.wrap != nil {
		return h.wrap(h.key), h.openErr
	}
	return h.key, h.openErr
}

func (h *house) Act(_ context.Context, r keystore.Record) (audit.Receipt, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entered = append(h.entered, r)
	return audit.Receipt{Entry: "log#1"}, nil
}

func (h *house) Hurry() {}

func (h *house) Start(r keystore.Record) audit.Pending {
	receipt, err := h.Act(context.Background(), r)
	return entered{receipt, err}
}

// entered is an act that is in the log already, or is not going to be.
type entered struct {
	receipt audit.Receipt
	err     error
}

func (e entered) Wait(context.Context) (audit.Receipt, error) { return e.receipt, e.err }
func (e entered) Leave()                                      {}

func (h *house) Take(keystore.KID) (int64, error) { return 1, nil }

func (h *house) GiveBack(keystore.KID, int64) bool { return true }

func (h *house) Refuse(r keystore.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, r)
}
func (h *house) Health() error { return nil }
func (h *house) List(context.Context) (signer.Fleet, error) {
	return signer.Fleet{Self: "a", Clock: noon, Nodes: []keystore.Node{{Name: "a"}, {Name: "b", StoppedAt: noon}}}, nil
}
func (h *house) Forget(_ context.Context, name string, _ keystore.Fact) (api.ForgetReply, error) {
	return api.ForgetReply{Name: name, ServedUntil: &noon, Entry: "log#2"}, nil
}
func (h *house) RaiseHorizon(context.Context, keystore.KID, time.Time) error { return nil }
func (h *house) Status() []keystore.TokenStatus                              { return nil }
func (h *house) Retry(context.Context, string) error                         { return nil }
func (h *house) Plan(context.Context, string) (p api.Plan, err error)        { return }
func (h *house) History(context.Context, string) (r api.History, err error)  { return }
func (h *house) KeySet(_ context.Context, set *keystore.KeySet) (api.KeySet, error) {
	return api.KeySet{Name: set.Name}, nil
}
func (h *house) Rotate(context.Context, string, string, string, bool) (api.RotateReply, error) {
	return api.RotateReply{}, h.rotate
}
func (h *house) Suspend(context.Context, string, string, keystore.KID, string) (r api.SuspendReply, err error) {
	return
}
func (h *house) Resume(context.Context, string, string, keystore.KID, string) (r api.SuspendReply, err error) {
	return
}
func (h *house) Compromise(context.Context, string, signer.Scope, string) (r api.CompromiseReply, err error) {
	return
}
func (h *house) Gap(*keystore.KeySet) (soonest time.Time, ok bool) { return }
func (h *house) Destroy(context.Context, string, string, keystore.KID, int, string) (r api.DestroyReply, err error) {
	return
}
func (h *house) Reconcile(context.Context, string) (r api.Reconciliation, err error) { return }
func (h *house) Reconciled() (r api.Reconciliation, ok bool)                         { return r, true }
func (h *house) Confirm(_ context.Context, rec keystore.Record) (api.ClockConfirmReply, error) {
	return api.ClockConfirmReply{Node: "n1", Offset: -3600.5, Entry: "log#" + rec.Reason}, nil
}
func (h *house) WriteEntries(_ context.Context, w io.Writer, node, log string, from, limit int64) error {
	h.asked = append(h.asked, fmt.Sprint(node, " ", log, " ", from, " ", limit))
	io.WriteString(w, "{}\n")
	return h.entries
}

// noCertificates is never asked: the house has no authority.
type noCertificates struct{ signer.Certificates }

// visitors come to a house, each with a TLS state of its own.
type visitors struct {
	root *authority
	gate *Gate
}

func newVisitors(t testing.TB, h *house) *visitors {
	root := newAuthority(t, "root", nil, noon.Add(48*time.Hour))
	v := &visitors{root, newGate(t, root.localhost(t), policy.Revoked{}, at(noon), root)}
	h.Gate = func() *Gate { return v.gate }
	return v
}

func (v *visitors) as(t testing.TB, name string) *tls.ConnectionState {
	cs, err, _ := shakeHands(t, v.gate.TLS(), clientConfig(v.root, v.root.named(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return &cs
}

func ask(h http.Handler, who *tls.ConnectionState, method, path string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, body)
	r.TLS = who
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// askWith is ask of a JWT with other headers; an empty one is left out.
func askWith(h http.Handler, who *tls.ConnectionState, header http.Header, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/sign/jwt", strings.NewReader(body))
	for name, values := range header {
		if values[0] != "" {
			r.Header[name] = values
		}
	}
	r.TLS = who
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read before it was known who asks")
	return 0, io.EOF
}
