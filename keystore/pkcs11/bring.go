package pkcs11

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/keystore/pkcs11/internal/confine"
)

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
	p.starting <- struct{}{} // for the ledger and what is to be taken
	defer func() { <-p.starting }()
	switch state {
	case keystore.TokenPINRejected, keystore.TokenPINLocked:
		p.mu.Lock()
		serial := cmp.Or(p.status.Serial, p.status.Label)
		p.mu.Unlock()
		l, err := openLedger(p.cfg, serial)
		if err != nil {
			return err
		}
		secret, err := readPIN(p.pin)
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

// greet waits until a worker has been executed, and notes what does not confine it.
func (p *Provider) greet(g *generation) error {
	body, err := g.ask(context.Background(), nil, verbHello, p.cfg.Deadlines.Start, []byte{protocolVersion})
	if err != nil {
		return err
	}
	var report confine.Report
	if err := unmarshalAnswer(body, &report); err != nil {
		return err
	}
	missing := strings.Join(report.Missing, "; ")
	p.mu.Lock()
	known := p.status.Unconfined == missing
	p.status.Unconfined = missing
	p.mu.Unlock()
	if !known && p.cfg.Log != nil {
		p.cfg.Log.Info("what could not be confined of the module's processes", "keystore", p.cfg.Name, "missing", missing,
			"landlock", report.Landlock, "seccomp", report.Seccomp)
	}
	return nil
}

// bring makes a worker that has loaded the module ready to serve: it finds the one
// token that is meant, claims it, logs in if the ledger allows it, and proves by
// the probe key that this is the token that was used before.
func (p *Provider) bring(g *generation) error {
	known, err := p.enterToken(g)
	if err != nil {
		return err
	}
	probe, err := p.proveProbe(g, known)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.probe = probe
	p.mu.Unlock()
	return nil
}

// enterToken is bring up to the login, and makes the probe key if there is none.
// One worker does this at a time: those that initialise while another one logs in
// may not see their token.
func (p *Provider) enterToken(g *generation) (known identity, err error) {
	select {
	case p.starting <- struct{}{}:
		defer func() { <-p.starting }()
	case <-p.ctx.Done():
		return known, errClosed
	}
	if wait := p.budget.wait(p.cfg.Now()); wait > 0 {
		p.cfg.Log.Warn("a worker waits for the device to give up the sessions of those before it", "keystore", p.cfg.Name, "wait", wait)
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
			return known, errClosed
		}
	}
	g.view = p.views.Add(1)
	if known, err = p.loadIdentity(); err != nil {
		return known, err
	}
	if p.anew { // as long as there is none, what is known stays on record
		known, p.anew = identity{}, false
	}
	token, err := p.findToken(g, known)
	if err != nil {
		return known, err
	}
	p.budget.workers, p.budget.within = token.Starts, token.Within
	p.mu.Lock()
	p.status.Serial, p.status.Label = token.Serial, token.Label
	p.mu.Unlock()
	if err := p.claim(token); err != nil {
		return known, err
	}
	algs, err := p.login(g, token, g.slot == clerkSlot || known.SPKI == nil)
	if err != nil {
		return known, err
	}
	if known.Serial != token.Serial || known.Label != token.Label {
		known.Serial, known.Label = token.Serial, token.Label
		if err := writeJSON(p.identityFile(), known); err != nil {
			return known, err
		}
	}
	if known.SPKI == nil {
		err = p.makeProbe(g, &known, algs)
	}
	return known, err
}

func (p *Provider) findToken(g *generation, known identity) (tokenInfo, error) {
	body, err := g.ask(context.Background(), nil, verbTokens, p.cfg.Deadlines.Start)
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

// login logs in, if flags, file and ledger allow it. maker says whether keys are
// to be made.
func (p *Provider) login(g *generation, token tokenInfo, maker bool) ([]keystore.Algorithm, error) {
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
	secret, err := readPIN(p.pin)
	if err != nil {
		return nil, err
	}
	defer clear(secret.value)
	var answer loginAnswer
	err = l.attempt(secret, func(value []byte) error {
		body := loginBody(marshalRequest(loginRequest{Token: token, Maker: maker, Clerk: g.slot == clerkSlot}), value)
		defer clear(body)
		g.offered = true
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
func (p *Provider) proveProbe(g *generation, known identity) (*key, error) {
	ref := keystore.KeyRef{ID: *known.Probe, Algorithm: known.Algorithm, SPKI: known.SPKI}
	p.mu.Lock()
	k := p.probe
	p.mu.Unlock()
	if k == nil || k.name != nameOf(ref.ID, ref.SPKI) {
		var err error
		if k, err = p.newKey(ref, keystore.PurposeProbe); err != nil {
			return nil, err
		}
	}
	err := k.hold(context.Background(), g, nil)
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
