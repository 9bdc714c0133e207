package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/devpki"
	"chancery/cmd/internal/load"
	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer"
	"chancery/signer/api"
	"chancery/signer/policy"
	"chancery/signer/rpc"
	"chancery/signer/server"
)

// A floor is the signing door with nothing behind it: the same listener, TLS,
// guard, routes, codec and Service as the daemon's, over a key that signs at once
// and a log that keeps nothing. What a request costs here, less what the Service
// by itself does, is what any request costs that comes in and goes out.
type floor struct {
	dir     string
	service *signer.Service
	policy  *policy.Policy
	doors   *doors
}

// A floorReady is what bench-floor prints when it serves.
type floorReady struct {
	Endpoint string `json:"endpoint"`
	Cert     string `json:"cert"`
	Key      string `json:"key"`
	CA       string `json:"ca"`
	KeySet   string `json:"keyset"`
	// Service is the CPU time of Service.SignJWT by itself, in microseconds.
	Service float64 `json:"service_us"`
}

func benchFloorCommand() *cobra.Command {
	var d time.Duration
	cmd := &cobra.Command{
		Use: "bench-floor", Short: "Serve requests that sign nothing, for chancery bench", Args: noArgs, Hidden: true,
		Long: `Serves the signing door on a Unix socket of its own, with a key that signs at
once and no log, until standard input ends. It prints where, and with which
certificate to come, as one line of JSON.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.MkdirTemp("", "chancery-floor-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			f, err := newFloor(dir)
			if err != nil {
				return err
			}
			defer f.close()
			ready, err := f.serve(cmd.Context(), d)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(ready); err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, cmd.InOrStdin())
			return err
		},
	}
	cmd.Flags().DurationVar(&d, "duration", 200*time.Millisecond, "how long the Service by itself is measured")
	return cmd
}

// floorKeySet is the key set that a floor has, and floorIssuer who may use it.
const floorKeySet = "floor"

var floorIssuer = policy.Principal{Anchor: "dev", Kind: policy.KindSPIFFE, Value: "spiffe://" + devpki.TrustDomain + "/issuer"}

func newFloor(dir string) (*floor, error) {
	if err := devpki.Ensure(dir, time.Now()); err != nil {
		return nil, err
	}
	p, err := policy.New(policy.Config{
		Anchors: []policy.Anchor{{Name: "dev", SPIFFE: []string{devpki.TrustDomain}}},
		Rules: []policy.Rule{{
			Name: "issuer", Principals: []string{floorIssuer.String()}, Actions: []policy.Action{policy.SignJWT},
			KeySets: []string{floorKeySet}, MaxTTL: time.Hour,
		}},
	})
	if err != nil {
		return nil, err
	}
	f := &floor{dir: dir, policy: p, doors: newDoors(slog.New(slog.DiscardHandler))}
	f.service, err = idleService(p)
	return f, err
}

// idleService is a Service to which signing and the log cost nothing.
func idleService(p *policy.Policy) (*signer.Service, error) {
	key, err := newIdleKey()
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.public)
	if err != nil {
		return nil, err
	}
	kid, err := keystore.Thumbprint(key.public)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	view := keystore.NewView(1, now, []*keystore.KeySet{{
		Name: floorKeySet, Purpose: keystore.PurposeJWT, Algorithm: keystore.ES256, CreatedAt: now,
		Versions: []keystore.Version{{Number: 1, Algorithm: keystore.ES256, KID: kid, SPKI: spki, State: keystore.Active}},
	}})
	idle := idleDaemon{key: key}
	return signer.New(signer.Config{
		Policy: func() *policy.Policy { return p },
		View:   func() (*keystore.View, error) { return view, nil },
		Settings: func(name string) (signer.Settings, bool) {
			return signer.Settings{Issuer: "https://localhost:8443/issuers/" + name, DefaultTTL: 5 * time.Minute, MaxTTL: time.Hour, Skew: time.Minute}, true
		},
		Digests:   func(string) bool { return false },
		Authority: func(string) (signer.Authority, bool) { return signer.Authority{}, false },
		Keys:      idle, Log: idle, Horizons: idle, Certificates: idle, Rotations: idle, Tokens: idle, Clock: idle, Nodes: idleNodes{},
	})
}

// serve opens the door and measures the Service by itself, before anything comes.
func (f *floor) serve(ctx context.Context, d time.Duration) (floorReady, error) {
	at := func(name string) string { return filepath.Join(f.dir, name) }
	cert, err := tls.LoadX509KeyPair(at("pki/server.crt"), at("pki/server.key"))
	if err != nil {
		return floorReady{}, err
	}
	root, err := rootOf(at("ca.crt"))
	if err != nil {
		return floorReady{}, err
	}
	gate, err := server.NewGate(cert, []server.Anchor{{Name: "dev", CA: root}}, f.policy, []string{"http/1.1", "h2"}, time.Now)
	if err != nil {
		return floorReady{}, err
	}
	ready := floorReady{
		Endpoint: "unix:" + at("run/sign.sock"), Cert: at("clients/issuer.crt"), Key: at("clients/issuer.key"), CA: at("ca.crt"), KeySet: floorKeySet,
	}
	if ready.Service, err = serviceCost(ctx, f.service, d); err != nil {
		return ready, err
	}
	socket, err := f.doors.holdOne(server.ListenUnix(at("run/sign.sock")))
	if err != nil {
		return ready, err
	}
	guarded := server.Config{
		Service: f.service, Gate: func() *server.Gate { return gate }, Log: f.doors.log, Entries: idleDaemon{}, Now: time.Now,
		Observe: func(string, string, time.Duration) {},
	}
	f.doors.guard(server.Signing(guarded), rpc.New(guarded, rpc.Limits{}), server.Limits{}, func() *server.Gate { return gate }, func(string, error) {}, nil, socket)
	return ready, nil
}

func (f *floor) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	f.doors.Close(ctx)
}

func rootOf(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// serviceCost returns the CPU time of one SignJWT in microseconds, authorised,
// prepared, signed by nothing, recorded nowhere and released.
func serviceCost(ctx context.Context, s *signer.Service, d time.Duration) (float64, error) {
	who := policy.Caller{Principal: floorIssuer}
	req := api.SignJWTRequest{KeySet: floorKeySet, Claims: json.RawMessage(`{"sub":"bench","aud":"chancery bench"}`)}
	return costOf(d, func() error {
		_, err := s.SignJWT(ctx, who, req)
		return err
	})
}

// costOf returns the CPU time of one f in microseconds, done over and over for d
// while this process does nothing else; what collecting its garbage costs is in it.
func costOf(d time.Duration, f func() error) (float64, error) {
	if err := f(); err != nil { // what is made once
		return 0, err
	}
	runtime.GC()
	before, err := load.OwnCPU()
	if err != nil {
		return 0, err
	}
	n := 0
	for start := time.Now(); time.Since(start) < d; n++ {
		if err := f(); err != nil {
			return 0, err
		}
	}
	after, err := load.OwnCPU()
	return micros(after-before) / float64(n), err
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// An idleKey signs at once, and nothing.
type idleKey struct {
	public    crypto.PublicKey
	signature []byte
}

func (k *idleKey) Public() crypto.PublicKey                     { return k.public }
func (k *idleKey) Algorithm() keystore.Algorithm                { return keystore.ES256 }
func (k *idleKey) Sign(context.Context, []byte) ([]byte, error) { return k.signature, nil }

// idleDaemon is what a Service works with where nothing is done. What it does not
// have is never asked of it: the floor's policy allows jwt.sign alone.
type idleDaemon struct {
	signer.Certificates
	signer.Rotations
	signer.Tokens
	signer.Clock
	key *idleKey
}

func (d idleDaemon) Open(context.Context, *keystore.KeySet, *keystore.Version) (keystore.Key, error) {
	return d.key, nil
}
func (idleDaemon) RaiseHorizon(context.Context, keystore.KID, time.Time) error { return nil }
func (idleDaemon) Take(keystore.KID) (int64, error)                            { return 1, nil }
func (idleDaemon) GiveBack(keystore.KID, int64) bool                           { return true }
func (idleDaemon) Refuse(keystore.Record)                                      {}
func (idleDaemon) Health() error                                               { return nil }
func (idleDaemon) Hurry()                                                      {}
func (d idleDaemon) Start(keystore.Record) audit.Pending                       { return d }
func (d idleDaemon) Wait(ctx context.Context) (audit.Receipt, error) {
	return d.Act(ctx, keystore.Record{})
}
func (idleDaemon) Leave() {}
func (idleDaemon) Act(context.Context, keystore.Record) (audit.Receipt, error) {
	return audit.Receipt{Entry: "localhost:8443/audit/floor/acts/2026-01#1000000"}, nil
}

// idleNodes is apart from idleDaemon for a name that two interfaces share.
type idleNodes struct{ signer.Nodes }

var errNoEntries = errors.New("the floor has no log")

// WriteEntries implements server.EntryReader.
func (idleDaemon) WriteEntries(context.Context, io.Writer, string, string, int64, int64) error {
	return errNoEntries
}

// newIdleKey returns one with a real public key, and a signature of the right
// length.
func newIdleKey() (*idleKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &idleKey{public: private.Public(), signature: make([]byte, 64)}, nil
}
