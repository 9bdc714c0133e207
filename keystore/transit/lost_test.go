package transit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit"
	"chancery/keystore/transit/transittest"
)

// creations is how many requests to make a key there were.
func creations(f *transittest.FakeServer) (n int) {
	for _, r := range f.Requests() {
		if (r.Method == "POST" || r.Method == "PUT") && strings.Contains(r.Path, "/keys/chancery-jwt-") && !strings.HasSuffix(r.Path, "/config") {
			n++
		}
	}
	return n
}

const aKey = `/keys/chancery-jwt-[^/]*$`

// V04: what becomes of a key when the answer to its creation is not the one that
// was wished for. It is asked for once in any case.
func TestGenerateWithALostAnswer(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		name  string
		rules []transittest.Rule
		want  error // nil: a key
		there bool  // there is a key afterwards
	}{
		{"done, and the connection is cut", []transittest.Rule{{Method: "PUT", Path: aKey, Drop: true}}, nil, true},
		{"done, and a proxy says 502", []transittest.Rule{{Method: "PUT", Path: aKey, StatusAfter: 502}}, nil, true},
		{"done, and a proxy says 504", []transittest.Rule{{Method: "PUT", Path: aKey, StatusAfter: 504, Body: "<html>"}}, nil, true},
		{"done, and the answer is a page", []transittest.Rule{{Method: "PUT", Path: aKey, StatusAfter: 200, Body: "<html>"}}, nil, true},
		{"not done, and the connection is cut", []transittest.Rule{{Method: "PUT", Path: aKey, Refuse: true}}, keystore.ErrUncertain, false},
		{"not done, and 500", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 500}}, keystore.ErrUncertain, false},
		{"not done, and 403", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 403}}, keystore.ErrUnavailable, false},
		{"not done, and 400", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 400}}, keystore.ErrUnsupported, false},
		{"not done, and 413", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 413}}, keystore.ErrUnavailable, false},
		{"not done, and 429", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 429}}, keystore.ErrOverloaded, false},
		{"not done, and sealed", []transittest.Rule{{Method: "PUT", Path: aKey, Status: 503, Body: `{"errors":["Vault is sealed"]}`, Times: 1}}, keystore.ErrUnavailable, false},
		{"done, and not readable for a moment", []transittest.Rule{{Method: "GET", Path: aKey, Status: 404, Body: `{"errors":[]}`, Times: 4}}, nil, true},
		{"done, lost, and not readable for a moment", []transittest.Rule{
			{Method: "PUT", Path: aKey, Drop: true}, {Method: "GET", Path: aKey, Status: 404, Body: `{"errors":[]}`, Times: 3}}, nil, true},
		{"done, and not readable", []transittest.Rule{{Method: "GET", Path: aKey, Status: 404, Body: `{"errors":[]}`}}, keystore.ErrUncertain, true},
		{"done, and reading is refused", []transittest.Rule{{Method: "GET", Path: aKey, Status: 403}}, keystore.ErrUncertain, true},
		{"done, and another's public key is read", []transittest.Rule{{Method: "GET", Path: aKey, Mangle: strange}}, keystore.ErrUncertain, true},
		{"done, and signing is refused", []transittest.Rule{{Path: "/sign/chancery-jwt", Status: 403}}, keystore.ErrUncertain, true},
		{"done, and it does not sign", []transittest.Rule{{Path: "/sign/chancery-jwt", Status: 500}}, keystore.ErrUncertain, true},
		{"done, and its signature is another's", []transittest.Rule{{Path: "/sign/chancery-jwt", Mangle: misprint}}, keystore.ErrUncertain, true},
		{"done, and it was made exportable", []transittest.Rule{{Method: "GET", Path: aKey, Mangle: exportable}}, keystore.ErrUncertain, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			f, p, _ := fake(t, transittest.RoleTTL{})
			becomes(t, p, keystore.TokenReady)
			f.Script(v.rules...)
			id := keystore.NewKeyID()
			spki, err := p.Generate(t.Context(), id, jwt, keystore.ES256)
			if !errors.Is(err, v.want) || (v.want == nil) != (len(spki) > 0) || v.want != keystore.ErrUncertain && errors.Is(err, keystore.ErrUncertain) {
				t.Errorf("%x, %v; want %v", spki, err, v.want)
			}
			if n := creations(f); n != 1 {
				t.Errorf("the key was asked for %d times", n)
			}
			f.Script()
			eventually(t, 5*time.Second, func() error { return p.Probe(t.Context()) })
			found, err := p.Find(t.Context(), id, jwt, keystore.ES256)
			if v.there && (err != nil || len(found) == 0 || len(spki) > 0 && string(spki) != string(found)) {
				t.Errorf("it is not adopted: %v", err)
			}
			if !v.there && !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%v, want it not found", err)
			}
			if n := creations(f); n != 1 {
				t.Errorf("finding has asked for a key: %d", n)
			}
		})
	}
}

// strange puts another public key into a key's description.
func strange(reply map[string]any) {
	const other = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A\niTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==\n-----END PUBLIC KEY-----\n"
	version(reply)["public_key"] = other
}

func version(reply map[string]any) map[string]any {
	return reply["data"].(map[string]any)["keys"].(map[string]any)["1"].(map[string]any)
}

func exportable(reply map[string]any) {
	if data, ok := reply["data"].(map[string]any); ok {
		data["exportable"] = true
	}
}

// misprint changes a letter of each signature.
func misprint(reply map[string]any) {
	for _, r := range reply["data"].(map[string]any)["batch_results"].([]any) {
		s := []byte(r.(map[string]any)["signature"].(string))
		s[20] = 'A' + (s[20]-'A'+1)%26
		r.(map[string]any)["signature"] = string(s)
	}
}

// A caller waited for seconds after its time was over: for what became of its key.
func TestACallerGoesWhileAKeyIsMadeOrDestroyed(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	becomes(t, p, keystore.TokenReady)
	brief := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := do(ctx)
		if took := time.Since(began); !errors.Is(err, keystore.ErrUncertain) || took > 600*time.Millisecond {
			t.Errorf("%s: after %v: %v; want the outcome unknown", what, took, err)
		}
	}
	ref := keystore.KeyRef{ID: keystore.NewKeyID(), Algorithm: keystore.ES256}
	f.Script(transittest.Rule{Method: "PUT", Path: aKey, Mangle: func(map[string]any) { time.Sleep(time.Second) }})
	brief("generating", func(ctx context.Context) error {
		_, err := p.Generate(ctx, ref.ID, jwt, ref.Algorithm)
		return err
	})
	f.Script(transittest.Rule{Method: "DELETE", Path: aKey, Hang: true})
	var err error
	if ref.SPKI, err = p.Find(t.Context(), ref.ID, jwt, ref.Algorithm); err != nil {
		t.Fatal(err)
	}
	brief("destroying", func(ctx context.Context) error { return p.Destroy(ctx, ref) })
	f.Script()
	if err := p.Destroy(t.Context(), ref); err != nil {
		t.Errorf("once more: %v", err)
	}
	if n := creations(f); n != 1 {
		t.Errorf("the key was asked for %d times", n)
	}
}

func TestAnIDIsTakenWhateverForItIs(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		p := open(t, config(t, s, s.Mount(t), s.RootToken()))
		id := keystore.NewKeyID()
		if _, err := p.Generate(t.Context(), id, keystore.PurposeCA, keystore.ES384); err != nil {
			t.Fatal(err)
		}
		for _, purpose := range []keystore.Purpose{keystore.PurposeJWT, keystore.PurposeCA} {
			for _, alg := range []keystore.Algorithm{keystore.ES256, keystore.ES384} {
				if _, err := p.Generate(t.Context(), id, purpose, alg); !errors.Is(err, keystore.ErrExists) {
					t.Errorf("%s %s: %v, want ErrExists", purpose, alg, err)
				}
				_, err := p.Find(t.Context(), id, purpose, alg)
				if same := purpose == keystore.PurposeCA && alg == keystore.ES384; same && err != nil || !same && !errors.Is(err, keystore.ErrAttributes) {
					t.Errorf("finding it for %s %s: %v", purpose, alg, err)
				}
			}
		}
	})
}

func TestOpeningWhatIsNotTheKey(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	ref, k := signer(t, p, keystore.ES256)
	for _, v := range []struct {
		name string
		rule transittest.Rule
		want error
	}{
		{"another public key", transittest.Rule{Method: "GET", Path: aKey, Mangle: strange}, keystore.ErrNotFound},
		{"exportable", transittest.Rule{Method: "GET", Path: aKey, Mangle: exportable}, keystore.ErrAttributes},
		{"absent for a moment", transittest.Rule{Method: "GET", Path: aKey, Status: 404, Body: `{"errors":[]}`, Times: 2}, nil},
		{"absent, and listed", transittest.Rule{Method: "GET", Path: aKey, Status: 404, Body: `{"errors":[]}`}, keystore.ErrUnavailable},
		{"absent, and not listed", transittest.Rule{Method: "GET", Path: `/keys(/chancery-jwt-[^/]*)?$`, Status: 404, Body: `{"errors":[]}`}, keystore.ErrNotFound},
		{"a proxy's 404", transittest.Rule{Method: "GET", Path: aKey, Status: 404, Body: "<html>errors</html>"}, keystore.ErrUnavailable},
		{"another's signatures", transittest.Rule{Path: "/sign/", Mangle: misprint}, keystore.ErrSignature},
		{"another version's signatures", transittest.Rule{Path: "/sign/", Mangle: func(r map[string]any) {
			for _, one := range r["data"].(map[string]any)["batch_results"].([]any) {
				m := one.(map[string]any)
				m["signature"], m["key_version"] = strings.Replace(m["signature"].(string), ":v1:", ":v2:", 1), 2
			}
		}}, keystore.ErrSignature},
		{"answers that are too few", transittest.Rule{Path: "/sign/", Mangle: func(r map[string]any) { r["data"].(map[string]any)["batch_results"] = []any{} }}, keystore.ErrUnavailable},
		{"an answer of another form", transittest.Rule{Path: "/sign/", Mangle: func(r map[string]any) { r["data"] = "signed" }}, keystore.ErrUnavailable},
	} {
		t.Run(v.name, func(t *testing.T) {
			f.Script(v.rule)
			_, err := p.Open(t.Context(), ref, jwt)
			if !errors.Is(err, v.want) || v.want == nil && err != nil || v.want != keystore.ErrNotFound && errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("%v, want %v", err, v.want)
			}
			f.Script()
			eventually(t, 3*time.Second, func() error { return signs(t, k, time.Second) })
		})
	}
}

func deletions(f *transittest.FakeServer) int { return f.Count("DELETE", aKey) }

// A destruction asks once to be allowed and once to be done, and is done when
// nothing is left.
func TestDestroyWithALostAnswer(t *testing.T) {
	t.Parallel()
	const config, key = aKeyConfig, aKey
	for _, v := range []struct {
		name  string
		rules []transittest.Rule
		want  error
		there bool
	}{
		{"both answers are lost", []transittest.Rule{{Method: "PUT", Path: config, Drop: true, Times: 1}, {Method: "DELETE", Path: key, Drop: true}}, nil, false},
		{"both are a proxy's", []transittest.Rule{{Method: "PUT", Path: config, StatusAfter: 502}, {Method: "DELETE", Path: key, StatusAfter: 502}}, nil, false},
		{"the permission does not come", []transittest.Rule{{Method: "PUT", Path: config, Refuse: true}}, keystore.ErrUncertain, true},
		{"the permission is refused", []transittest.Rule{{Method: "PUT", Path: config, Status: 403}}, keystore.ErrUnavailable, true},
		{"the deletion does not come", []transittest.Rule{{Method: "DELETE", Path: key, Refuse: true}}, keystore.ErrUncertain, true},
		{"the deletion is refused", []transittest.Rule{{Method: "DELETE", Path: key, Status: 403}}, keystore.ErrUncertain, true},
		{"it is said to be done, and is not", []transittest.Rule{{Method: "DELETE", Path: key, Status: 204, Body: " "}}, keystore.ErrUncertain, true},
		{"it cannot be looked at afterwards", []transittest.Rule{{Method: "GET", Path: key, Skip: 1, Status: 500}}, keystore.ErrUncertain, false},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			f, p, _ := fake(t, transittest.RoleTTL{})
			ref, _ := signer(t, p, keystore.ES256)
			f.Script(v.rules...)
			err := p.Destroy(t.Context(), ref)
			if !errors.Is(err, v.want) || v.want != keystore.ErrUncertain && errors.Is(err, keystore.ErrUncertain) {
				t.Errorf("%v, want %v", err, v.want)
			}
			if c, d := f.Count("PUT", config), deletions(f); c != 1 || d > 1 {
				t.Errorf("%d times configured, %d times deleted", c, d)
			}
			f.Script()
			eventually(t, 5*time.Second, func() error { return p.Probe(t.Context()) })
			status, _, err := f.CallAs(f.RootToken(), "GET", path(p, ref), nil)
			if want := map[bool]int{true: 200, false: 404}[v.there]; err != nil || status != want {
				t.Errorf("afterwards its status is %d, want %d (%v)", status, want, err)
			}
			if err := p.Destroy(t.Context(), ref); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

const aKeyConfig = `/keys/chancery-jwt-[^/]*/config$`

func path(p *transit.Provider, ref keystore.KeyRef) string {
	return p.Status()[0].Label + "/keys/" + name(ref)
}

// Of what has the id of a key, all must be that key before anything is deleted.
func TestDestroyingWhatIsAnothers(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		p := open(t, config(t, s, mount, s.RootToken()))
		ref, k := signer(t, p, keystore.ES256)
		twin := strings.Replace(name(ref), "-jwt-", "-audit-", 1)
		s.Call(t, "POST", mount+"/keys/"+twin, map[string]any{"type": "ecdsa-p256"})
		if err := p.Destroy(t.Context(), ref); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Errorf("beside a twin: %v, want ErrAmbiguous", err)
		}
		wrong := ref
		wrong.SPKI = []byte("another")
		s.Call(t, "POST", mount+"/keys/"+twin+"/config", map[string]any{"deletion_allowed": true})
		s.Call(t, "DELETE", mount+"/keys/"+twin, nil)
		if err := p.Destroy(t.Context(), wrong); !errors.Is(err, keystore.ErrAmbiguous) {
			t.Errorf("another public key: %v, want ErrAmbiguous", err)
		}
		if err := signs(t, k, 5*time.Second); err != nil {
			t.Errorf("after destructions that were refused: %v", err)
		}
		if err := p.Destroy(t.Context(), ref); err != nil {
			t.Error(err)
		}
		if err := signs(t, k, 5*time.Second); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("destroyed, it signs: %v", err)
		}
	})
}

// V05, V08, V09: what somebody else does to a key.
func TestWhatSomebodyElseDoesToAKey(t *testing.T) {
	transittest.Either(t, func(t *testing.T, s *transittest.Server) {
		mount := s.Mount(t)
		told := make(chan struct{}, 100)
		cfg := config(t, s, mount, s.RootToken())
		cfg.OnChange = func() { told <- struct{}{} }
		p := open(t, cfg)
		for _, v := range []struct {
			what  string
			does  func(path string)
			signs error // what signing then is; nil: it signs
		}{
			{"rotated", func(path string) { s.Call(t, "POST", path+"/rotate", nil) }, nil},
			{"min_encryption_version raised", func(path string) {
				s.Call(t, "POST", path+"/rotate", nil)
				s.Call(t, "POST", path+"/config", map[string]any{"min_encryption_version": 2})
			}, keystore.ErrAttributes},
			{"trimmed", func(path string) {
				s.Call(t, "POST", path+"/rotate", nil)
				s.Call(t, "POST", path+"/config", map[string]any{"min_encryption_version": 2, "min_decryption_version": 2})
				s.Call(t, "POST", path+"/trim", map[string]any{"min_available_version": 2})
			}, keystore.ErrNotFound},
			{"deleted", func(path string) {
				s.Call(t, "POST", path+"/config", map[string]any{"deletion_allowed": true})
				s.Call(t, "DELETE", path, nil)
			}, keystore.ErrNotFound},
			{"made anew", func(path string) {
				s.Call(t, "POST", path+"/config", map[string]any{"deletion_allowed": true})
				s.Call(t, "DELETE", path, nil)
				s.Call(t, "POST", path, map[string]any{"type": "ecdsa-p256"})
			}, keystore.ErrSignature},
		} {
			t.Run(v.what, func(t *testing.T) {
				ref, k := signer(t, p, keystore.ES256)
				if err := p.Probe(t.Context()); err != nil || len(told) > 0 {
					t.Fatalf("before: %v, told %d times", err, len(told))
				}
				v.does(mount + "/keys/" + name(ref))
				if err := signs(t, k, 5*time.Second); !errors.Is(err, v.signs) || v.signs == nil && err != nil {
					t.Errorf("signing: %v, want %v", err, v.signs)
				}
				for range 2 {
					if err := p.Probe(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if len(told) != 1 {
					t.Errorf("told %d times, want once", len(told))
				}
				for len(told) > 0 {
					<-told
				}
			})
		}
	})
}

// A list of a thousand keys that could not be read went on to the last, and said
// of each why.
func TestAListEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	f, p, _ := fake(t, transittest.RoleTTL{})
	becomes(t, p, keystore.TokenReady)
	many := transittest.Rule{Method: "GET", Path: "/keys$", Mangle: func(r map[string]any) {
		var names []any
		for i := range 1000 {
			names = append(names, fmt.Sprint("k", i))
		}
		r["data"].(map[string]any)["keys"] = names
	}}
	for _, v := range []struct {
		name   string
		rule   transittest.Rule
		within time.Duration
		want   error
	}{
		{"its caller goes", transittest.Rule{Path: "/keys/k", Delay: 50 * time.Millisecond}, 300 * time.Millisecond, context.DeadlineExceeded},
		{"one cannot be read", transittest.Rule{Path: "/keys/k", Skip: 20, Status: 403}, 30 * time.Second, keystore.ErrUnavailable},
	} {
		f.Script(many, v.rule)
		ctx, cancel := context.WithTimeout(t.Context(), v.within)
		defer cancel()
		before, began := f.Count("GET", "/keys/k"), time.Now()
		objects, err := p.List(ctx)
		if took := time.Since(began); !errors.Is(err, v.want) || !errors.Is(err, keystore.ErrUnavailable) || objects != nil || took > time.Second {
			t.Errorf("%s: %d keys after %v, %v", v.name, len(objects), took, err)
		}
		if len(fmt.Sprint(err)) > 1000 {
			t.Errorf("%s: it says %d bytes", v.name, len(err.Error()))
		}
		time.Sleep(200 * time.Millisecond)
		if n := f.Count("GET", "/keys/k") - before; n > 100 || n == 0 {
			t.Errorf("%s: %d keys were read", v.name, n)
		}
	}
	f.Script(many)
	if objects, err := p.List(t.Context()); err != nil || len(objects) != 0 {
		t.Errorf("%d keys that have gone since they were listed, %v", len(objects), err)
	}
}
