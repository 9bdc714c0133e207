package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/client"
)

// A hearing is the verification of an old token: as at a time that may be long
// past, with what was known of its key then, and with what is known now.
type hearing struct {
	token    string
	header   client.Header
	at       time.Time
	leeway   time.Duration
	verifier *client.Verifier
}

// A verdictAt is what comes of it. It is good if there is nothing against it.
type verdictAt struct {
	Good    bool              `json:"verified"`
	At      time.Time         `json:"at"`
	Against []string          `json:"against"`
	Source  string            `json:"source"`
	Header  json.RawMessage   `json:"header,omitempty"`
	Claims  json.RawMessage   `json:"claims,omitempty"`
	Key     map[string]string `json:"key"`
	Then    []string          `json:"then"`
	Now     []string          `json:"now"`
	Entry   string            `json:"entry,omitempty"` // that made it
	Told    string            `json:"log,omitempty"`   // what the log says of the token, in words

	token *client.Token // nil: it did not verify
}

func (v *verdictAt) against(format string, args ...any) {
	v.Against = append(v.Against, fmt.Sprintf(format, args...))
}

// wantsAt checks the flags that belong to --at.
func (f *verifyFlags) wantsAt(dir string) error {
	switch {
	case f.at.IsZero() && (len(f.logs) > 0 || f.history != "" || len(f.keys) > 0):
		return usagef("verify: --log, --key and --history tell of the past: give --at TIME")
	case f.at.IsZero():
		return nil
	case len(f.logs) == 0 && f.history == "" && dir == "":
		return usagef("verify: who knows of the key at that time? give --log LOGDIR, --history FILE|URL or --dir DIR")
	case len(f.logs) == 0 && f.history == "" && f.issuer == "" && f.jwks != "":
		return usagef("verify: --jwks tells of no time but now: give --log LOGDIR or --history FILE|URL")
	case f.history != "" && f.issuer == "" && f.jwks == "" && dir == "":
		return usagef("verify: by whose keys is the history checked? give --issuer URL, --jwks URL or --dir DIR")
	}
	return nil
}

// verifyAt verifies a token as at a time.
func (a *app) verifyAt(ctx context.Context, token string, cfg client.VerifierConfig, f verifyFlags, note string) error {
	header, _, err := client.Unverified(token)
	if err != nil {
		return err
	}
	v, err := client.NewVerifier(cfg)
	if err != nil {
		return err
	}
	h := &hearing{token: token, header: header, at: f.at, leeway: f.leeway, verifier: v}
	verdict := &verdictAt{At: f.at.UTC(), Against: []string{}, Then: []string{}, Now: []string{}}
	var past *client.History
	if f.history != "" {
		if past, err = a.readHistory(ctx, v, f.history); err != nil {
			return fmt.Errorf("the history does not verify: %w", err)
		}
	}
	logs := f.logs
	if len(logs) == 0 && past == nil {
		dir, err := a.logDir(nil)
		if err != nil {
			return err
		}
		logs = []string{dir}
	}
	if len(logs) == 0 {
		err = h.byHistory(ctx, past, verdict)
	} else {
		err = a.byLogs(ctx, h, logs, f.keys, past, verdict)
	}
	if err != nil {
		return err
	}
	verdict.Good = len(verdict.Against) == 0
	return a.printVerdict(verdict, h, note)
}

// readHistory reads the signed history at a URL or in a file.
func (a *app) readHistory(ctx context.Context, v *client.Verifier, where string) (*client.History, error) {
	if strings.HasPrefix(where, "https://") || strings.HasPrefix(where, "http://") {
		return v.FetchHistory(ctx, where)
	}
	text, err := readFile(ctx, where, largestMatch)
	if err != nil {
		return nil, err
	}
	return v.History(ctx, string(bytes.TrimSpace(text)))
}

// verify checks the token under key and notes what is against it.
func (h *hearing) verify(key client.Key, verdict *verdictAt) {
	verdict.Key = map[string]string{"kid": key.KID, "alg": key.Algorithm}
	t, err := h.verifier.VerifyUnder(h.token, key, h.at)
	if err != nil {
		verdict.against("%v", err)
		return
	}
	verdict.token, verdict.Header, verdict.Claims = t, t.RawHeader, t.Claims
}

// Tokens and histories tell time in whole seconds, logs do not.
const rounding = time.Second

// slack is how far what a token says of time may be from what is told of its key:
// the clocks of two nodes may have told it.
func (h *hearing) slack() time.Duration { return h.leeway + rounding }

// byHistory judges the token by what its issuer says of the keys it has had.
func (h *hearing) byHistory(ctx context.Context, past *client.History, verdict *verdictAt) error {
	verdict.Source = fmt.Sprintf("the issuer's history of %s UTC, signed by %s", when(past.IssuedAt), past.Signer.KID)
	verdict.Told = "not asked: give --log LOGDIR to see whether Chancery made it"
	k, ok := past.Keys[h.header.KID]
	if !ok {
		key, err := h.verifier.Published(ctx, h.header.KID)
		if errors.Is(err, client.ErrUnknownKey) {
			verdict.against("the key is neither in the history nor among those the issuer publishes")
			return nil
		}
		if err != nil {
			return err
		}
		verdict.Now = append(verdict.Now, "published")
		verdict.Then = append(verdict.Then, "not told: the history is of keys that have left the set")
		h.verify(key, verdict)
		return nil
	}
	h.verify(k.Key, verdict)
	h.judgePast(k, verdict)
	return nil
}

// judgePast judges the token by what a history says of its key.
func (h *hearing) judgePast(k client.PastKey, verdict *verdictAt) {
	begins := k.NotBefore
	if begins.IsZero() {
		begins = k.IssuedAt
	}
	switch {
	case h.at.Add(rounding).Before(k.IssuedAt):
		verdict.Then = append(verdict.Then, "unknown to the world until "+when(k.IssuedAt)+" UTC")
		verdict.against("the key was not known at that time")
	case h.at.Add(-rounding).After(k.Expires):
		verdict.Then = append(verdict.Then, "gone from the set since "+when(k.Expires)+" UTC")
		verdict.against("the key had left the set at that time")
	default:
		verdict.Then = append(verdict.Then, "known, from "+when(k.IssuedAt)+" to "+when(k.Expires)+" UTC")
	}
	if t := verdict.token; t != nil && !t.IssuedAt.IsZero() && (t.IssuedAt.Add(h.slack()).Before(begins) || t.IssuedAt.Add(-h.slack()).After(k.Expires)) {
		verdict.against("the token says that it was issued at %s UTC, when the key did not sign", when(t.IssuedAt))
	}
	verdict.Now = append(verdict.Now, "gone from the set since "+when(k.Expires)+" UTC")
	if !k.Revoked.IsZero() {
		text := "revoked since " + when(k.Revoked) + " UTC: " + cmp.Or(k.Reason, "no reason is given")
		verdict.Now = append(verdict.Now, text)
		verdict.against("the key is %s", text)
	}
}

// byLogs judges the token by what the logs say of its key and of itself.
func (a *app) byLogs(ctx context.Context, h *hearing, dirs, keyArgs []string, past *client.History, verdict *verdictAt) error {
	vkeys, err := a.logKeys(ctx, keyArgs)
	if err != nil {
		return err
	}
	r := &rolls{kid: keystore.KID(h.header.KID), lives: audit.NewKeyLives()}
	if err := a.logDirs(dirs); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := a.openRolls(ctx, r, dir, vkeys); err != nil {
			return err
		}
	}
	r.fold()
	verdict.Source = "the log, verified: " + strings.Join(dirs, ", ")
	life, ok := r.lives.ByKID(r.kid)
	if !ok {
		verdict.against("the log knows no key of that kid")
		return nil
	}
	key, err := h.keyOf(ctx, life, past)
	if err != nil {
		return err
	}
	h.verify(key, verdict)
	h.judgeLife(life, verdict)
	return h.judgeEntries(ctx, r, life, verdict)
}

// keyOf returns the public key of a life. Where the log has only its thumbprint,
// since its entry is from before keys were entered, whoever else has the key of that
// thumbprint will do.
func (h *hearing) keyOf(ctx context.Context, life *audit.KeyLife, past *client.History) (client.Key, error) {
	key := client.Key{KID: string(life.KID), Algorithm: string(life.Algorithm)}
	if life.Public != nil {
		pub, err := keystore.ParsePublic(life.Public)
		key.Public = pub
		return key, err
	}
	found, err := client.Key{}, error(client.ErrUnknownKey)
	if past != nil {
		if k, ok := past.Keys[key.KID]; ok {
			found, err = k.Key, nil
		}
	}
	if err != nil {
		found, err = h.verifier.Published(ctx, key.KID)
	}
	if err == nil {
		var kid keystore.KID
		if kid, err = keystore.Thumbprint(found.Public); err == nil && kid != life.KID {
			err = errors.New("its thumbprint is not its kid")
		}
	}
	if err != nil {
		return client.Key{}, hinted{
			fmt.Errorf("the log has the kid and not the public key of version %d of %s: %w", life.Version, life.KeySet, err),
			"give the issuer's historical keys as well, with --history FILE|URL",
		}
	}
	key.Public = found.Public
	return key, nil
}

// judgeLife judges the token by the life of its key.
func (h *hearing) judgeLife(life *audit.KeyLife, verdict *verdictAt) {
	verdict.Key["keyset"], verdict.Key["version"] = life.KeySet, fmt.Sprint(life.Version)
	then, now := life.At(h.at), life.At(time.Now())
	verdict.Then, verdict.Now = standing(then), standing(now)
	known := func(t time.Time) bool { return life.At(t).State.Known() }
	if !known(h.at) && !known(h.at.Add(rounding)) && !known(h.at.Add(-rounding)) {
		verdict.against("the key was not known to the world at that time: %s", verdict.Then[0])
	}
	if life.Purpose != "" && life.Purpose != keystore.PurposeJWT {
		verdict.against("the key is of purpose %s, and signs no tokens", life.Purpose)
	}
	if c := life.Compromised; c != nil { // also one that was said later than at that time
		verdict.against("the key is %s", factText("compromised", c))
	}
	for _, p := range life.Problems {
		verdict.against("the log contradicts itself: %s", p)
	}
}

// standing tells what there is to know of a version at a time.
func standing(s audit.Standing) []string {
	if s.State == 0 {
		return []string{"not there yet"}
	}
	words := []string{fmt.Sprintf("%s, since %s UTC (%s)", s.State, when(s.Since), s.Entry)}
	if s.Suspended != nil {
		words = append(words, factText("suspended", s.Suspended))
	}
	if s.Compromised != nil {
		words = append(words, factText("compromised", s.Compromised))
	}
	return words
}

func factText(what string, f *audit.KeyFact) string {
	return fmt.Sprintf("%s since %s UTC, as %s said: %s (%s)", what, when(f.At), f.By, f.Reason, f.Entry)
}

func (a *app) printVerdict(v *verdictAt, h *hearing, note string) error {
	if a.json {
		if err := json.NewEncoder(a.out).Encode(v); err != nil {
			return err
		}
	} else if err := a.printHearing(v, h, note); err != nil {
		return err
	}
	if !v.Good {
		return errFound
	}
	return nil
}

func (a *app) printHearing(v *verdictAt, h *hearing, note string) error {
	good := "good"
	if !v.Good {
		good = "not good"
	}
	a.printf("%s at %s UTC\n", good, when(v.At))
	for _, why := range v.Against {
		a.printf("  against %s\n", why)
	}
	a.printf("  by      %s\n", v.Source)
	a.printf("  kid     %s\n", h.header.KID)
	if v.Key["keyset"] != "" {
		a.printf("  key     version %s of %s, %s\n", v.Key["version"], v.Key["keyset"], v.Key["alg"])
	}
	for _, text := range v.Then {
		a.printf("  then    %s\n", text)
	}
	for _, text := range v.Now {
		a.printf("  now     %s\n", text)
	}
	if v.Told != "" {
		a.printf("  log     %s\n", v.Told)
	}
	if v.token == nil {
		return nil
	}
	a.printf("  issuer  %s%s\n", v.token.Issuer, note)
	if !v.token.IssuedAt.IsZero() {
		a.printf("  issued  %s\n", when(v.token.IssuedAt))
	}
	a.printf("  expires %s\n", when(v.token.Expires))
	var claims bytes.Buffer
	if err := json.Indent(&claims, v.token.Claims, "", "  "); err != nil {
		return errors.New("the claims cannot be printed")
	}
	_, err := fmt.Fprintf(a.out, "claims\n%s\n", cleanLines(claims.String()))
	return err
}
