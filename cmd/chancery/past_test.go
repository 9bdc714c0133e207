package main

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A pastKey is a key of a key set in the past.
type pastKey struct {
	private ed25519.PrivateKey
	kid     keystore.KID
}

func newPastKey() (pastKey, error) {
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return pastKey{}, err
	}
	kid, err := keystore.Thumbprint(pub)
	return pastKey{private, kid}, err
}

// jws signs a payload under a header that names the key.
func (k pastKey) jws(typ, payload string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(fmt.Appendf(nil, `{"alg":"EdDSA","kid":%q,"typ":%q}`, k.kid, typ)) + "." + b64([]byte(payload))
	return input + "." + b64(ed25519.Sign(k.private, []byte(input)))
}

// token is one of five minutes from at.
func (k pastKey) token(issuer, jti string, at time.Time) string {
	return k.jws("JWT", fmt.Sprintf(`{"iss":%q,"iat":%d,"nbf":%d,"exp":%d,"jti":%q}`, issuer, at.Unix(), at.Unix()-5, at.Unix()+300, jti))
}

func (k pastKey) jwk(more string) (string, error) {
	b, err := jose.JSONWebKey{Key: k.private.Public(), KeyID: string(k.kid), Algorithm: "EdDSA", Use: "sig"}.MarshalJSON()
	return strings.TrimSuffix(string(b), "}") + more + "}", err
}

// pastDay is the day of the past. What happens on it is told by minutes.
var pastDay = time.Date(2026, 1, 15, 10, 0, 0, 0, time.UTC)

func minute(n int) time.Time { return pastDay.Add(time.Duration(n) * time.Minute) }

const pastIssuer = "https://keys.example/issuers/web"

// A pastLog is a log whose clock is set by hand.
type pastLog struct {
	log *audit.Log
	err error

	mu  sync.Mutex
	now time.Time
}

func (p *pastLog) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// enter enters what happened at a minute.
func (p *pastLog) enter(at int, rec keystore.Record) {
	p.mu.Lock()
	p.now = minute(at)
	p.mu.Unlock()
	rec.KeySet = "web"
	if rec.Outcome == "" {
		rec.Outcome = keystore.OutcomeDone
	}
	var err error
	if rec.Action == keystore.ActSignJWT {
		_, err = p.log.Act(context.Background(), rec)
	} else {
		_, err = p.log.Lifecycle(context.Background(), rec)
	}
	p.err = errors.Join(p.err, err)
}

// life enters the life of a version: known, signing, retiring and gone at minutes;
// 0 is never.
func (p *pastLog) life(version int, k pastKey, begins [4]int) {
	spki, err := keystore.MarshalPublic(crypto.PublicKey(k.private.Public()))
	p.err = errors.Join(p.err, err)
	for i, action := range []keystore.Action{keystore.ActKeyPublish, keystore.ActKeyActivate, keystore.ActKeyRetire, keystore.ActKeyRemove} {
		rec := keystore.Record{Principal: "chancery", Action: action, Version: version, KID: k.kid, State: keystore.State(int(keystore.Published) + i).String()}
		if action == keystore.ActKeyPublish {
			rec.Detail = map[string]string{"purpose": "jwt", "algorithm": "EdDSA", "public": base64.StdEncoding.EncodeToString(spki)}
		}
		if begins[i] > 0 {
			p.enter(begins[i], rec)
		}
	}
}

// writePast makes a log in dir/audit of a day in the past, its key in
// dir/audit.vkey, and tokens of that day: good.jwt; late.jwt, of a key that is said
// to be compromised a day later; forged.jwt, of which there is no entry; copied.jwt,
// with the jti of another; failed.jwt, whose signature failed; alien.jwt, by a key
// the log does not know.
func writePast(dir string) error {
	var keys [4]pastKey
	var errs [4]error
	for i := range keys {
		keys[i], errs[i] = newPastKey()
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err := errors.Join(append(errs[:], err)...); err != nil {
		return err
	}
	key := fileKey{private}
	p := &pastLog{now: pastDay}
	ctx := context.Background()
	p.log, err = audit.Open(ctx, audit.Config{
		Dir: filepath.Join(dir, "audit"), Host: "keys.example", Node: "dev", Interval: time.Hour, JournalSize: 64 << 10, Now: p.clock,
		Keys: func(context.Context) (audit.Keys, error) { return audit.Keys{Active: key}, nil },
	})
	if err != nil {
		return err
	}
	p.life(1, keys[0], [4]int{1, 10})
	sign := func(at, version int, k pastKey, jti string, outcome keystore.Outcome) string {
		p.enter(at, keystore.Record{
			Principal: "dev:spiffe:spiffe://chancery.dev/issuer", Action: keystore.ActSignJWT, Outcome: outcome,
			Version: version, KID: k.kid, JTI: jti, Exp: minute(at).Unix() + 300,
		})
		return k.token(pastIssuer, jti, minute(at))
	}
	tokens := map[string]string{"good.jwt": sign(20, 1, keys[0], "first", keystore.OutcomeDone)}
	tokens["failed.jwt"] = sign(21, 1, keys[0], "second", keystore.OutcomeUnknown)
	p.life(2, keys[1], [4]int{25, 30})
	p.life(1, keys[0], [4]int{0, 0, 30, 60})
	said := func(at int, action keystore.Action, state keystore.State) {
		p.enter(at, keystore.Record{
			Principal: "dev:spiffe:spiffe://chancery.dev/operator", Action: action, Version: 2, KID: keys[1].kid,
			State: state.String(), Reason: "a laptop was stolen", Detail: map[string]string{"at": minute(at).Format(time.RFC3339Nano)},
		})
	}
	tokens["late.jwt"] = sign(40, 2, keys[1], "third", keystore.OutcomeDone)
	said(42, keystore.ActSuspend, keystore.Active)
	said(50, keystore.ActResume, keystore.Active)
	said(24*60, keystore.ActCompromise, keystore.Retired)
	tokens["forged.jwt"] = keys[0].token(pastIssuer, "never", minute(20))
	tokens["copied.jwt"] = keys[0].token(pastIssuer, "first", minute(19))
	tokens["alien.jwt"] = keys[2].token(pastIssuer, "first", minute(20))
	vkey, err := p.log.VKey(keystore.EdDSA, key.Public())
	if err := errors.Join(p.err, err, p.log.Close(ctx)); err != nil {
		return err
	}
	return writeAll(dir, tokens, map[string]string{"audit.vkey": vkey + "\n"})
}

func writeAll(dir string, files ...map[string]string) error {
	var errs []error
	for _, some := range files {
		for name, text := range some {
			errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
	return errors.Join(errs...)
}

// writeHistory makes the signed history of the fake's key set, which it serves and
// writes into dir/history.jwt, and tokens by keys in it: old.jwt, revoked.jwt,
// early.jwt, which says that it is from before its key signed, and alien.jwt, by a
// key that is not.
func (f *fake) writeHistory(dir string) error {
	var keys [3]pastKey
	var errs [3]error
	for i := range keys {
		keys[i], errs[i] = newPastKey()
	}
	issuer := f.public + "/issuers/web"
	life := fmt.Sprintf(`,"iat":%d,"nbf":%d,"exp":%d`, minute(1).Unix(), minute(10).Unix(), minute(60).Unix())
	old, err := keys[0].jwk(life)
	revoked, err2 := keys[1].jwk(life + fmt.Sprintf(`,"revoked":{"revoked_at":%d,"reason":"compromised"}`, minute(24*60).Unix()))
	if err := errors.Join(append(errs[:], err, err2)...); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keyHistory, err = f.active().jws("jwk-set+jwt", fmt.Sprintf(`{"iss":%q,"iat":%d,"keys":[%s,%s]}`, issuer, minute(25*60).Unix(), old, revoked))
	if err != nil {
		return err
	}
	return writeAll(dir, map[string]string{
		"history.jwt": f.keyHistory + "\n", "old.jwt": keys[0].token(issuer, "a", minute(20)), "revoked.jwt": keys[1].token(issuer, "b", minute(20)),
		"early.jwt": keys[0].token(issuer, "c", minute(5)), "alien.jwt": keys[2].token(issuer, "d", minute(20)),
	})
}

func (f *fake) serveHistory(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/jwk-set+jwt")
	fmt.Fprint(w, f.keyHistory)
}

// makePast makes a log of the past and its tokens in DIR; makeHistory what the fake
// tells of its keys.
func makePast(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	ts.Check(writePast(ts.MkAbs(args[0])))
}

func makeHistory(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	ts.Check(ts.Value("fake").(*fake).writeHistory(ts.MkAbs(args[0])))
}
