package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"chancery/keystore"
)

// How long a generation must have served to count as a good one, and the
// pauses after bad ones. The first death is followed by a new worker at once.
const (
	goodService = time.Second
	firstPause  = 50 * time.Millisecond
	servedPause = 250 * time.Millisecond // at most, if it served at all; callers wait for that
	longPause   = 5 * time.Second        // at most, if it did not
)

// A trouble is why a token does not serve, and the state that is.
type trouble struct {
	state keystore.TokenState
	err   error
}

func (t *trouble) Error() string { return t.err.Error() }
func (t *trouble) Unwrap() error { return t.err }

// waits reports whether only an operator ends the trouble.
func (t *trouble) waits() bool {
	return t.state != keystore.TokenUnavailable && t.state != keystore.TokenStarting
}

// keep starts one generation after the other, until Close. It is locked to its
// thread, which the kernel takes for the parent of the workers.
func (p *Provider) keep() {
	runtime.LockOSThread()
	defer close(p.done)
	defer p.release()
	var order chan<- error // an operator's retry that waits to hear
	failures := 0
	for number := uint32(1); p.ctx.Err() == nil; number++ {
		served, err := p.live(number, func() {
			if order != nil {
				order <- nil
				order = nil
			}
		})
		failures++
		if served >= goodService {
			failures = 1
		}
		order = p.rest(err, served, failures, order)
	}
	p.setStatus(keystore.TokenUnavailable, errClosed, func(s *keystore.TokenStatus) { s.Workers = 0 })
}

// rest waits until it is time for another generation. An operator's retry that
// is still to hear hears what it came to. rest returns the one that ended the
// wait, if one did.
func (p *Provider) rest(err error, served time.Duration, failures int, order chan<- error) chan<- error {
	pause := time.Duration(0)
	if failures > 1 {
		longest := longPause
		if served > 0 {
			longest = p.cfg.pause
		}
		pause = min(firstPause<<min(failures-2, 16), longest)
	}
	t := &trouble{keystore.TokenUnavailable, err}
	errors.As(err, &t)
	var timer <-chan time.Time // never, for an operator
	if !t.waits() {
		timer = time.After(pause)
	}
	// A worker that only died is as good as starting; callers wait for it.
	if t.waits() || failures > 1 && served == 0 || order != nil {
		p.setStatus(t.state, t.err, func(s *keystore.TokenStatus) { s.Workers = 0 })
	}
	if order != nil {
		order <- p.refusal(t.err)
	}
	for {
		select {
		case <-timer:
			return nil
		case <-p.ctx.Done():
			return nil
		case order := <-p.orders:
			err := p.permit(t.state)
			if err == nil {
				return order
			}
			order <- p.refusal(err)
		}
	}
}

// live runs one generation from its start until its process is gone, and
// returns how long it served. up is called once it does.
func (p *Provider) live(number uint32, up func()) (served time.Duration, err error) {
	g, err := startGeneration(number, p.cfg.Signers, p.cfg.Env)
	if err != nil {
		return 0, err
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(p.ctx, func() {
		g.stop(p.cfg.Deadlines.Close)
		close(stopped)
	})
	defer func() {
		if !stop() {
			<-stopped
		}
	}()
	if err := p.bring(g); err != nil {
		g.end(err)
		cause := g.reap()
		if errors.Is(err, errEnded) {
			err = cause
		}
		return 0, err
	}
	began := time.Now()
	p.ready.Store(g)
	p.setStatus(keystore.TokenReady, nil, func(s *keystore.TokenStatus) { s.Workers, s.Restarts = 1, int(number)-1 })
	up() // not before: whoever has heard of it may count on it
	<-g.ended
	p.ready.Store(nil)
	p.setStatus(keystore.TokenStarting, nil, func(s *keystore.TokenStatus) { s.Workers = 0 })
	cause := g.reap()
	if p.ctx.Err() == nil {
		p.cfg.Log.Warn("worker ended", "keystore", p.cfg.Name, "generation", number, "err", cause)
	}
	return time.Since(began), cause
}

// setStatus changes the state, and tells whoever waits for that.
func (p *Provider) setStatus(state keystore.TokenState, reason error, more func(*keystore.TokenStatus)) {
	p.mu.Lock()
	old := p.status
	p.status.State, p.status.Err, p.reason = state, "", nil
	more(&p.status)
	if reason != nil {
		p.status.Err = reason.Error()
		p.reason = p.refusal(reason)
	}
	if p.status.State != old.State {
		p.status.Since = p.cfg.Now()
	}
	now := p.status
	changed := now != old
	if changed {
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	if now.State != old.State || now.Err != old.Err {
		level := slog.LevelInfo
		if now.Err != "" && p.ctx.Err() == nil { // a close that was asked for is no trouble
			level = slog.LevelWarn
		}
		p.cfg.Log.Log(p.ctx, level, "token state", "keystore", now.Keystore, "label", now.Label, "serial", now.Serial,
			"state", now.State, "err", now.Err, "restarts", now.Restarts)
		if p.cfg.OnState != nil {
			p.cfg.OnState(now)
		}
	}
}

// refusal is what reason is to callers: an error that wraps ErrUnavailable, and
// of the other sentinels the one that says why. The sentinels that reason may
// wrap besides would be about another thing to them than they are here: a probe
// key that is not found is no key of theirs.
func (p *Provider) refusal(reason error) error {
	for _, kind := range []error{keystore.ErrPINRejected, keystore.ErrTokenChanged, keystore.ErrAmbiguous, keystore.ErrUnsupported} {
		if errors.Is(reason, kind) {
			return &answerError{errors.Join(keystore.ErrUnavailable, kind), fmt.Sprintf("keystore %s: %v", p.cfg.Name, reason)}
		}
	}
	text := reason.Error()
	if !errors.Is(reason, keystore.ErrUnavailable) {
		text = keystore.ErrUnavailable.Error() + ": " + text
	}
	return &answerError{keystore.ErrUnavailable, fmt.Sprintf("keystore %s: %s", p.cfg.Name, text)}
}

// An identity is what a keystore's token was when it was last used.
type identity struct {
	Serial string `json:"serial"`
	Label  string `json:"label"`
	// The probe key's name is written down before the key is made, its public
	// key when it is known.
	Probe     *keystore.KeyID    `json:"probe,omitempty"`
	Algorithm keystore.Algorithm `json:"algorithm,omitempty"`
	SPKI      []byte             `json:"spki,omitempty"`
}

func (p *Provider) identityFile() string {
	return filepath.Join(p.cfg.StateDir, "token-"+p.cfg.Name+".json")
}

func (p *Provider) loadIdentity() (identity, error) {
	var id identity
	err := readJSON(p.identityFile(), &id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return identity{}, fmt.Errorf("token identity: %w", err)
	}
	return id, nil
}

// permit makes way for a retry, by an operator who has looked into what stopped
// the token.
func (p *Provider) permit(state keystore.TokenState) error {
	switch state {
	case keystore.TokenPINRejected, keystore.TokenPINLocked:
		p.mu.Lock()
		serial := cmp.Or(p.status.Serial, p.status.Label)
		p.mu.Unlock()
		l, err := openLedger(p.cfg, serial)
		if err != nil {
			return err
		}
		secret, err := readPIN(p.uri.PINFile)
		if err != nil {
			return err
		}
		defer clear(secret.value)
		return l.permit(secret)
	case keystore.TokenChanged:
		p.anew = true
	}
	return nil
}

// bring makes a new worker ready to serve: it loads the module, finds the one
// token that is meant, claims it, logs in if the ledger allows it, and proves by the probe
// key that this is the token that was used before.
func (p *Provider) bring(g *generation) error {
	known, err := p.loadIdentity()
	if err != nil {
		return err
	}
	if p.anew { // as long as there is none, what is known stays on record
		known, p.anew = identity{}, false
	}
	token, err := p.findToken(g, known)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.status.Serial, p.status.Label = token.Serial, token.Label
	p.mu.Unlock()
	if err := p.claim(token); err != nil {
		return err
	}
	algs, err := p.login(g, token)
	if err != nil {
		return err
	}
	if known.Serial != token.Serial || known.Label != token.Label {
		known.Serial, known.Label = token.Serial, token.Label
		if err := writeJSON(p.identityFile(), known); err != nil {
			return err
		}
	}
	probe, err := p.proveProbe(g, known, algs)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.probe = probe
	p.mu.Unlock()
	return nil
}

func (p *Provider) findToken(g *generation, known identity) (tokenInfo, error) {
	if _, err := g.ask(context.Background(), nil, verbHello, p.cfg.Deadlines.Start, []byte{protocolVersion}); err != nil {
		return tokenInfo{}, err
	}
	body, err := g.ask(context.Background(), nil, verbTokens, p.cfg.Deadlines.Start, marshalRequest(tokensRequest{p.cfg.Module}))
	if err != nil {
		return tokenInfo{}, err
	}
	var tokens []tokenInfo
	if err := unmarshalAnswer(body, &tokens); err != nil {
		return tokenInfo{}, err
	}
	return choose(tokens, p.uri, known, p.cfg.Name)
}

// choose returns the one token that uri means, if it is the one known to the
// keystore of that name.
func choose(tokens []tokenInfo, uri URI, known identity, name string) (tokenInfo, error) {
	fitting := slices.DeleteFunc(slices.Clone(tokens), func(t tokenInfo) bool { return !uri.fits(t) })
	switch {
	case len(fitting) > 1:
		return tokenInfo{}, &trouble{keystore.TokenAmbiguous,
			fmt.Errorf("%w: %d tokens fit (hint: name the token by its serial number)", keystore.ErrAmbiguous, len(fitting))}
	case len(fitting) == 1 && known.Serial != "" && known.Serial != fitting[0].Serial:
		return tokenInfo{}, changedTo(fitting[0], known, fmt.Sprintf("`chancery token retry %s`", name))
	case len(fitting) == 1:
		return fitting[0], nil
	}
	for _, t := range tokens {
		if known.Serial != "" && t.Serial == known.Serial { // nothing has changed but the URI
			return tokenInfo{}, &trouble{keystore.TokenUnavailable, fmt.Errorf(
				"no token fits the keystore's URI; the one its keys are on is there, with label %q and serial %q (hint: correct the URI)", t.Label, t.Serial)}
		}
	}
	for _, t := range tokens {
		if known.Label != "" && t.Label == known.Label {
			return tokenInfo{}, changedTo(t, known, fmt.Sprintf("name it in the keystore's URI, then `chancery token retry %s`", name))
		}
	}
	return tokenInfo{}, &trouble{keystore.TokenUnavailable, errors.New("token not found in any slot")}
}

func changedTo(t tokenInfo, known identity, toUse string) error {
	return &trouble{keystore.TokenChanged, fmt.Errorf(
		"%w: token %q has serial %q, the keys were on %q (hint: put that token back; or, to go on with this one and new keys, %s)",
		keystore.ErrTokenChanged, t.Label, t.Serial, known.Serial, toUse)}
}

// login logs in, if flags, file and ledger allow it.
func (p *Provider) login(g *generation, token tokenInfo) ([]keystore.Algorithm, error) {
	if token.Locked {
		return nil, p.locked(errPINLocked)
	}
	if token.FinalTry {
		return nil, &trouble{keystore.TokenPINLocked, fmt.Errorf(
			"%w: one wrong PIN more would lock the token (hint: log in once with the vendor's tool, then `chancery token retry %s`)",
			keystore.ErrPINRejected, p.cfg.Name)}
	}
	l, err := openLedger(p.cfg, cmp.Or(token.Serial, token.Label))
	if err != nil {
		return nil, err
	}
	secret, err := readPIN(p.uri.PINFile)
	if err != nil {
		return nil, err
	}
	defer clear(secret.value)
	var answer loginAnswer
	err = l.attempt(secret, func(value []byte) error {
		body := loginBody(marshalRequest(loginRequest{token}), value)
		defer clear(body)
		b, err := g.ask(context.Background(), nil, verbLogin, p.cfg.Deadlines.Login, body)
		if err != nil {
			return err
		}
		return unmarshalAnswer(b, &answer)
	})
	switch {
	case errors.Is(err, errPINLocked):
		return nil, p.locked(err)
	case errors.Is(err, keystore.ErrPINRejected):
		return nil, &trouble{keystore.TokenPINRejected, err}
	}
	return answer.Algorithms, err
}

func (p *Provider) locked(err error) error {
	return &trouble{keystore.TokenPINLocked, fmt.Errorf(
		"%w (hint: reset it with the security officer's, then `chancery token retry %s`)", err, p.cfg.Name)}
}

// proveProbe returns the token's probe key, proven by a challenge. A probe key
// that is remembered and is not there means that this is another token.
func (p *Provider) proveProbe(g *generation, known identity, algs []keystore.Algorithm) (*key, error) {
	if known.SPKI == nil {
		if err := p.makeProbe(g, &known, algs); err != nil {
			return nil, err
		}
	}
	k, err := p.newKey(keystore.KeyRef{ID: *known.Probe, Algorithm: known.Algorithm, SPKI: known.SPKI}, keystore.PurposeProbe)
	if err != nil {
		return nil, err
	}
	err = k.hold(context.Background(), g, nil)
	for _, gone := range []error{keystore.ErrNotFound, keystore.ErrAmbiguous, keystore.ErrAttributes} {
		if errors.Is(err, gone) {
			return nil, &trouble{keystore.TokenChanged, fmt.Errorf(
				"%w: its probe key is not what it was: %w (hint: put the token back as it was; or, to go on with it as it is, `chancery token retry %s`)",
				keystore.ErrTokenChanged, err, p.cfg.Name)}
		}
	}
	return k, err
}

// makeProbe makes a probe key, or adopts the one whose making was interrupted.
func (p *Provider) makeProbe(g *generation, known *identity, algs []keystore.Algorithm) error {
	ctx := context.Background()
	if known.Probe != nil {
		spki, err := g.ask(ctx, nil, verbFind, p.cfg.Deadlines.Find, keyBody(*known.Probe, keystore.PurposeProbe, known.Algorithm))
		if err == nil {
			known.SPKI = spki
			return writeJSON(p.identityFile(), known)
		}
		if errors.Is(err, errEnded) {
			return err
		}
	}
	i := slices.IndexFunc(algs, func(a keystore.Algorithm) bool { return a.Curve() != nil || a == keystore.RS256 || a == keystore.EdDSA })
	if i < 0 {
		return &trouble{keystore.TokenUnavailable, fmt.Errorf("%w: the token has no algorithm we know", keystore.ErrUnsupported)}
	}
	id := keystore.NewKeyID() // never one that generation was tried with before
	known.Probe, known.Algorithm = &id, algs[i]
	if err := writeJSON(p.identityFile(), known); err != nil {
		return err
	}
	spki, err := p.generate(ctx, g, nil, id, keystore.PurposeProbe, known.Algorithm)
	if err != nil {
		return fmt.Errorf("making the probe key: %w", err)
	}
	known.SPKI = spki
	return writeJSON(p.identityFile(), known)
}
