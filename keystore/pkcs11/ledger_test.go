package pkcs11

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

func TestI7LedgerDecidesWhetherAPINIsOffered(t *testing.T) {
	lost := errors.Join(errEnded, errors.New("killed"))
	fault := errors.Join(errEnded, errFault)
	unasked := errors.Join(errEnded, errNotAsked)
	no := keystore.ErrPINRejected
	type step struct {
		pin     string
		rewrite bool  // the file is written anew
		answer  error // of the token, if it is asked
		asked   bool
	}
	for _, v := range []struct {
		name  string
		own   bool
		steps []step
	}{
		{"accepted PINs are asked again and again", false, []step{{"a", false, nil, true}, {"a", false, nil, true}}},
		{"a wrong PIN is asked once", false, []step{{"a", false, no, true}, {"a", false, nil, false}, {"a", true, nil, false}}},
		{"each wrong PIN is asked once", false, []step{{"a", false, no, true}, {"b", true, no, true}, {"a", true, nil, false}, {"b", true, nil, false}, {"c", true, nil, true}}},
		{"a lost answer counts as no", false, []step{{"a", false, lost, true}, {"a", false, nil, false}}},
		{"a lost answer for a token of our own", true, []step{{"a", false, lost, true}, {"a", false, nil, true}}},
		{"a no is a no for a token of our own", true, []step{{"a", false, no, true}, {"a", false, nil, false}}},
		{"a lost answer to a PIN that was accepted", false, []step{{"a", false, nil, true}, {"a", false, lost, true}, {"a", false, nil, true}}},
		// What it was: a module that dies on a wrong PIN was offered an accepted one
		// that had been changed beside Chancery at each respawn, without end.
		{"answers to an accepted PIN that are lost in a row", false, []step{{"a", false, nil, true}, {"a", false, lost, true}, {"a", false, lost, true}, {"a", false, lost, true}, {"a", false, nil, false}}},
		// What it was: trouble before the login counted as an answer in between.
		{"trouble before the login in between", false, []step{{"a", false, nil, true}, {"a", false, lost, true}, {"a", false, fault, true}, {"a", false, lost, true}, {"a", false, unasked, true}, {"a", false, lost, true}, {"a", false, nil, false}}},
		{"an answer in between", false, []step{{"a", false, nil, true}, {"a", false, lost, true}, {"a", false, lost, true}, {"a", false, nil, true}, {"a", false, lost, true}, {"a", false, nil, true}}},
		{"the PIN was changed on the token", false, []step{{"a", false, nil, true}, {"a", false, no, true}, {"a", false, nil, false}}},
		{"trouble before the login is not the PIN's", false, []step{{"a", false, fault, true}, {"a", false, nil, true}}},
		{"a PIN that was never offered", false, []step{{"a", false, unasked, true}, {"a", false, nil, true}}},
		{"a rewritten file is another PIN until it is accepted", false, []step{{"a", false, nil, true}, {"a", true, lost, true}, {"a", false, nil, false}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "pin")
			for i, s := range v.steps {
				if i == 0 || s.rewrite {
					os.Remove(file)
					if err := os.WriteFile(file, []byte(secretOf(s.pin)+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				p, err := readPIN(file)
				if err != nil {
					t.Fatal(err)
				}
				l, err := openLedger(Quick(Config{StateDir: dir, Now: time.Now, OwnToken: v.own}), "ser/ial") // as after a restart
				if err != nil {
					t.Fatal(err)
				}
				asked := false
				err = l.attempt(p, func(value []byte) error {
					asked = string(value) == secretOf(s.pin)
					onDisk, _ := os.ReadFile(l.path)
					mark, _ := os.ReadFile(l.mark)
					if string(mark) != markOffered && !strings.Contains(string(onDisk), `"answered": false`) {
						t.Errorf("step %d: not written down before it is offered", i)
					}
					return s.answer
				})
				if asked != s.asked {
					t.Errorf("step %d: asked %v, want %v (%v)", i, asked, s.asked, err)
				}
				if !s.asked && !errors.Is(err, keystore.ErrPINRejected) || s.asked && !errors.Is(err, s.answer) {
					t.Errorf("step %d: %v", i, err)
				}
				if err != nil && strings.Contains(err.Error(), secretOf(s.pin)) {
					t.Errorf("step %d: the PIN is in the error", i)
				}
			}
			fi, err := os.Stat(filepath.Join(dir, "pin-ser%2Fial.json"))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("ledger: %v, %v", fi, err)
			}
		})
	}
}

// A retry offers what was refused only from a file that was written anew since.
func TestI7ARetryIsNoAttemptByItself(t *testing.T) {
	no, lost := keystore.ErrPINRejected, errors.Join(errEnded, errors.New("killed"))
	for _, v := range []struct {
		name      string
		answer    error // to the first attempt
		next      string
		rewrite   bool
		permitted bool
	}{
		{"the refused PIN in the file as it was", no, "a", false, false},
		{"the refused PIN in a file written anew", no, "a", true, true},
		{"another PIN", no, "b", true, true},
		{"a PIN whose answer is not known", lost, "a", false, true},
		{"a PIN that was locked", errPINLocked, "a", false, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "pin")
			write := func(secret string) {
				os.Remove(file)
				if err := os.WriteFile(file, []byte(secretOf(secret)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			read := func() (*ledger, pin) {
				p, err := readPIN(file)
				if err != nil {
					t.Fatal(err)
				}
				l, err := openLedger(Quick(Config{Name: "test", StateDir: dir, Now: time.Now}), "1")
				if err != nil {
					t.Fatal(err)
				}
				return l, p
			}
			write("a")
			l, p := read()
			l.attempt(p, func([]byte) error { return v.answer })
			for round := range 2 { // the second time, the file is as it was
				if round == 0 && v.rewrite {
					write(v.next)
				}
				want := v.permitted && (round == 0 || v.answer != no)
				l, p = read()
				if err := l.permit(p); want != (err == nil) || err != nil && !errors.Is(err, keystore.ErrPINRejected) {
					t.Errorf("retry %d: %v, want permission %v", round, err, want)
				}
				asked := false
				l, p = read()
				l.attempt(p, func([]byte) error { asked = true; return v.answer })
				if asked != want {
					t.Errorf("retry %d: asked %v, want %v", round, asked, want)
				}
			}
		})
	}
}

// What it was: of the PIN that was accepted last the attempt was written down
// after it was made. Where that failed, as on a full disk, each restart spent
// another of the token's attempts.
func TestI7AnAttemptThatCannotBeWrittenDownIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pin")
	if err := os.WriteFile(file, []byte(secretOf("a")), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPIN(file)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(full bool) *ledger {
		l, err := openLedger(Quick(Config{StateDir: dir, Now: time.Now}), "1")
		if err != nil {
			t.Fatal(err)
		}
		if full {
			l.path = filepath.Join(dir, "missing", "pin-1.json")
		}
		return l
	}
	if err := restart(false).attempt(p, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	// A full disk is no reason not to use a PIN that is right.
	if err := restart(true).attempt(p, func([]byte) error { return nil }); err != nil {
		t.Error(err)
	}
	asked := 0
	no := func([]byte) error { asked++; return keystore.ErrPINRejected }
	for range 5 {
		if err := restart(true).attempt(p, no); err == nil {
			t.Error("logged in")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times on a full disk, want 1", asked)
	}
	for range 5 { // there is room again: what was not written down is asked anew, once
		if err := restart(false).attempt(p, no); !errors.Is(err, keystore.ErrPINRejected) {
			t.Error(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times in all, want 2", asked)
	}
}

// A daemon that dies while it asks for the accepted PIN may ask once more.
func TestI7AnAcceptedPINSurvivesADeath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pin")
	if err := os.WriteFile(file, []byte(secretOf("a")), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPIN(file)
	if err != nil {
		t.Fatal(err)
	}
	attempt := func(dies bool) (asked bool) {
		l, err := openLedger(Quick(Config{StateDir: dir, Now: time.Now}), "1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { recover() }()
		l.attempt(p, func([]byte) error {
			asked = true
			if dies {
				panic("killed")
			}
			return nil
		})
		return asked
	}
	for i, dies := range []bool{false, true, false, true, false, false} {
		if !attempt(dies) {
			t.Errorf("not asked at start %d", i)
		}
	}
}

// What it was: a worker that ended, or was stopped, while the ledger was being
// written left the PIN refused, though nobody had been asked.
func TestI7APINThatWasNeverOfferedIsNotRefused(t *testing.T) {
	for name, end := range map[string]func(g *generation){
		"the worker crashed": func(g *generation) { g.end(errors.New("crash")) },
		"the provider is being closed": func(g *generation) {
			go g.stop(time.Second, errClosed)
			for !g.isTold() {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pin")
			if err := os.WriteFile(file, []byte(secretOf("a")), 0o600); err != nil {
				t.Fatal(err)
			}
			busy, release := make(chan struct{}), make(chan struct{})
			g := impostor(t, 7, func(frame) []byte { close(busy); <-release; return nil })
			defer close(release)
			if _, err := g.send(nil, nil, verbHello, time.Minute, nil); err != nil {
				t.Fatal(err)
			}
			<-busy // and does not notice that its socket was shut
			p := &Provider{
				pin: file,
				cfg: Quick(Config{Name: "test", StateDir: t.TempDir(), Deadlines: Deadlines{}.withDefaults(),
					Now: func() time.Time { end(g); return time.Now() }}), // the entry has a time
			}
			if _, err := p.login(g, tokenInfo{Serial: "1"}, false); !errors.Is(err, errNotAsked) {
				t.Errorf("login: %v", err)
			}
			l, err := openLedger(p.cfg, "1")
			if err != nil {
				t.Fatal(err)
			}
			if len(l.book.Refused) != 0 {
				t.Errorf("refused: %+v", l.book.Refused)
			}
		})
	}
}

func secretOf(pin string) string { return "secret-" + pin + "-9341" }

func TestADamagedLedgerAllowsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pin-1.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(Config{StateDir: dir, Now: time.Now}, "1"); err == nil {
		t.Error("opened")
	}
}

func TestTokenIsChosenOrRefused(t *testing.T) {
	a, b := tokenInfo{Serial: "1", Label: "x"}, tokenInfo{Serial: "2", Label: "x"}
	label, serial := URI{Label: "x"}, URI{Serial: "1"}
	for _, v := range []struct {
		name   string
		tokens []tokenInfo
		uri    URI
		known  identity
		want   string // serial, or state
	}{
		{"by label", []tokenInfo{a}, label, identity{}, "1"},
		{"by serial among twins", []tokenInfo{a, b}, serial, identity{}, "1"},
		{"by label among twins", []tokenInfo{a, b}, label, identity{}, "ambiguous"},
		{"none", nil, label, identity{}, "unavailable"},
		{"gone for now", nil, serial, identity{Serial: "1", Label: "x"}, "unavailable"},
		{"the one known", []tokenInfo{a}, label, identity{Serial: "1", Label: "x"}, "1"},
		{"another of that label", []tokenInfo{b}, label, identity{Serial: "1", Label: "x"}, "changed"},
		{"a URI with a mistake", []tokenInfo{b, a}, URI{Label: "z"}, identity{Serial: "1", Label: "x"}, "unavailable"},
		{"initialised again, named by serial", []tokenInfo{b}, serial, identity{Serial: "1", Label: "x"}, "changed"},
	} {
		got, err := choose(v.tokens, v.uri, v.known, "test")
		said := got.Serial
		if tr := (*trouble)(nil); errors.As(err, &tr) {
			said = string(tr.state)
		}
		if said != v.want {
			t.Errorf("%s: %q (%v), want %q", v.name, said, err, v.want)
		}
	}
}

// P11: a token that would lock at the next wrong PIN is not asked at all.
func TestP11FlagsForbidLogin(t *testing.T) {
	p := &Provider{}
	for _, token := range []tokenInfo{{Locked: true}, {FinalTry: true}} {
		_, err := p.login(nil, token, false)
		if tr := (*trouble)(nil); !errors.As(err, &tr) || tr.state != keystore.TokenPINLocked {
			t.Errorf("%+v: %v", token, err)
		}
	}
}

// An error of the login that cannot be placed before it counts as a refusal.
func TestLoginErrors(t *testing.T) {
	for text, refused := range map[string]bool{
		"failed to initialize PKCS#11 library: pkcs11: 0x5: CKR_GENERAL_ERROR":  false,
		"could not find PKCS#11 token":                                          false,
		"failed to log into long term session: pkcs11: 0xA0: CKR_PIN_INCORRECT": true,
		"failed to log into long term session: pkcs11: 0x5: CKR_GENERAL_ERROR":  true,
		"something a later version says":                                        true,
	} {
		if got := errors.Is(loginError(errors.New(text)), keystore.ErrPINRejected); got != refused {
			t.Errorf("%s: refused %v, want %v", text, got, refused)
		}
	}
}
