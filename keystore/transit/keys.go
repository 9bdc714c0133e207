package transit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"chancery/keystore"
)

// read reads a key. Its error is of kind absent if there is none.
func (p *Provider) read(ctx context.Context, name string) (*keyInfo, error) {
	a, err := p.cluster.do(ctx, &request{method: "GET", path: p.cfg.Mount + "/keys/" + name, within: p.cfg.Deadlines.Read})
	if err != nil {
		return nil, err
	}
	info := new(keyInfo)
	return info, a.read(info)
}

// A key that was just written may be unknown for a moment to the node that is
// asked. It is read again after pauses, doubled each time.
const (
	freshPause = 50 * time.Millisecond
	freshTries = 7 // 3 s and a little
)

// readFresh reads a key that is known to have been written.
func (p *Provider) readFresh(ctx context.Context, name string) (info *keyInfo, err error) {
	for i := range freshTries {
		if i > 0 && !pause(ctx, freshPause<<(i-1)) {
			break
		}
		if info, err = p.read(ctx, name); !isKind(err, absent) {
			return info, err
		}
	}
	return nil, err
}

// find reads a key that should be there, and believes that it is not only when
// that is said three times, of the mount that it was in, and no list has it. Its
// errors wrap keystore.ErrNotFound, or keystore.ErrAttributes if the key of that id
// is for another purpose or algorithm.
func (p *Provider) find(ctx context.Context, id keystore.KeyID, name string) (*keyInfo, error) {
	listed := false
	for i := range 3 {
		info, err := p.read(ctx, name)
		if !isKind(err, absent) {
			return info, err
		}
		others, err := p.others(ctx, id)
		if err != nil {
			return nil, err
		}
		switch {
		case slices.Contains(others, name): // a node that has not heard of it yet
			listed = true
		case len(others) > 0:
			return nil, fmt.Errorf("%w: the key of that id is %s", keystore.ErrAttributes, others[0])
		}
		if i < 2 && !pause(ctx, 2*freshPause<<i) {
			return nil, gaveUp(ctx)
		}
	}
	if listed {
		return nil, fmt.Errorf("%w: key %s is listed, and cannot be read", keystore.ErrUnavailable, name)
	}
	if err := p.sameMount(ctx); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("key %s: %w", name, keystore.ErrNotFound)
}

// names lists the keys of the mount.
func (p *Provider) names(ctx context.Context) ([]string, error) {
	a, err := p.cluster.do(ctx, &request{method: "LIST", path: p.cfg.Mount + "/keys", within: p.cfg.Deadlines.List})
	if isKind(err, absent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		Keys []string `json:"keys"`
	}
	if err := a.read(&list); err != nil {
		return nil, err
	}
	return list.Keys, nil
}

// others lists the keys with an id, whatever they are for.
func (p *Provider) others(ctx context.Context, id keystore.KeyID) ([]string, error) {
	names, err := p.names(ctx)
	return slices.DeleteFunc(names, func(n string) bool {
		of, _, _, ours := parseName(n)
		return !ours || of != id
	}), err
}

func checkKey(id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) error {
	if id.IsZero() {
		return errors.New("the zero key id names no key")
	}
	if _, err := keystore.ParsePurpose(string(purpose)); err != nil {
		return err
	}
	if _, err := keystore.ParseAlgorithm(string(alg)); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnsupported, err)
	}
	if purpose == keystore.PurposeDigest && alg.Hash() == 0 {
		return fmt.Errorf("%w: %s for purpose %s", keystore.ErrUnsupported, alg, purpose)
	}
	return nil
}

// begin is how every operation begins.
func (p *Provider) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, gaveUp(ctx)
	}
	if err := p.await(ctx); err != nil {
		return nil, nil, err
	}
	ctx, cancel := p.joined(ctx)
	return ctx, cancel, nil
}

// Generate implements keystore.Provider. The key is asked for once. If the answer
// is lost, reading the name tells what became of it.
func (p *Provider) Generate(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) ([]byte, error) {
	if err := checkKey(id, purpose, alg); err != nil {
		return nil, err
	}
	ctx, cancel, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if err := p.sameMount(ctx); err != nil {
		return nil, err
	}
	name := nameOf(id, purpose, alg)
	taken, err := p.others(ctx, id) // Transit answers as if it had made one that is there
	if err != nil {
		return nil, err
	}
	if len(taken) > 0 {
		return nil, fmt.Errorf("%w: key %s", keystore.ErrExists, taken[0])
	}
	if err := p.create(ctx, name, alg); err != nil {
		return nil, err
	}
	info, err := p.readFresh(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%w: key %s was made, and cannot be read: %w", keystore.ErrUncertain, name, err)
	}
	spki, err := p.prove(ctx, id, purpose, alg, info)
	if err != nil {
		return nil, fmt.Errorf("%w: key %s was made, and its self-test failed: %w", keystore.ErrUncertain, name, err)
	}
	return spki, nil
}

// create asks for a key, once. Its errors wrap keystore.ErrUncertain if the key
// may be there, keystore.ErrExists if it was.
func (p *Provider) create(ctx context.Context, name string, alg keystore.Algorithm) error {
	a, err := p.cluster.once(ctx, &request{
		method: "POST", path: p.cfg.Mount + "/keys/" + name, within: p.cfg.Deadlines.Create,
		body: map[string]any{"type": keyType(alg, p.cfg.RSABits), "exportable": false, "allow_plaintext_backup": false},
	})
	switch t := troubleOf(err); {
	case err == nil && slices.ContainsFunc(a.Warnings, func(w string) bool { return strings.Contains(w, "already exist") }):
		return fmt.Errorf("%w: key %s", keystore.ErrExists, name)
	case err == nil:
		return nil
	case t != nil && t.kind == refused:
		return fmt.Errorf("%w: making key %s: %w", keystore.ErrUnsupported, name, err)
	case t != nil && !t.done():
		return fmt.Errorf("making key %s: %w", name, err)
	}
	// The answer is lost: look what became of it, unless ctx is over.
	within, cancel := context.WithTimeout(ctx, p.cfg.Deadlines.Read)
	defer cancel()
	p.cluster.await(within)
	if _, look := p.readFresh(within, name); look == nil {
		return nil
	}
	return fmt.Errorf("%w: making key %s: %w", keystore.ErrUncertain, name, err)
}

// prove has a key sign a challenge. It returns its public key. One that does not
// fit the signature may be an old answer's, and is read again.
func (p *Provider) prove(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm, info *keyInfo) ([]byte, error) {
	for i := 0; ; i++ {
		spki, err := p.proveAs(ctx, id, purpose, alg, info)
		if !errors.Is(err, keystore.ErrSignature) || i == 2 || !pause(ctx, 2*freshPause<<i) {
			return spki, err
		}
		if info, err = p.read(ctx, nameOf(id, purpose, alg)); err != nil {
			return nil, err
		}
	}
}

func (p *Provider) proveAs(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm, info *keyInfo) ([]byte, error) {
	spki, err := info.check(alg)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", nameOf(id, purpose, alg), err)
	}
	k, err := p.newKey(keystore.KeyRef{ID: id, Algorithm: alg, SPKI: spki}, purpose)
	if err != nil {
		return nil, err
	}
	if err := k.challenge(ctx); err != nil {
		return nil, err
	}
	return spki, nil
}

// Find implements keystore.Provider.
func (p *Provider) Find(ctx context.Context, id keystore.KeyID, purpose keystore.Purpose, alg keystore.Algorithm) ([]byte, error) {
	if err := checkKey(id, purpose, alg); err != nil {
		return nil, err
	}
	ctx, cancel, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	info, err := p.find(ctx, id, nameOf(id, purpose, alg))
	if err != nil {
		return nil, err
	}
	return p.prove(ctx, id, purpose, alg, info)
}

// Open implements keystore.Provider.
func (p *Provider) Open(ctx context.Context, ref keystore.KeyRef, purpose keystore.Purpose) (keystore.Key, error) {
	if err := checkKey(ref.ID, purpose, ref.Algorithm); err != nil {
		return nil, err
	}
	k, err := p.newKey(ref, purpose)
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	info, err := p.find(ctx, ref.ID, k.name)
	if err != nil {
		return nil, err
	}
	if err := k.fits(info); err != nil {
		return nil, err
	}
	if err := k.challenge(ctx); err != nil {
		return nil, err
	}
	k.differs(info.lacks(), nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[k.name] = k
	return k, nil
}

// fits returns nil if what is in Transit is the key, as it is to be.
func (k *key) fits(info *keyInfo) error {
	spki, err := info.check(k.ref.Algorithm)
	if err != nil {
		return fmt.Errorf("key %s: %w", k.name, err)
	}
	if !bytes.Equal(spki, k.ref.SPKI) {
		return fmt.Errorf("key %s: %w: Transit has another public key under that name", k.name, keystore.ErrNotFound)
	}
	return nil
}

// Drop implements keystore.Provider: the key is not looked after any more.
func (p *Provider) Drop(_ context.Context, id keystore.KeyID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, k := range p.open {
		if k.ref.ID == id {
			delete(p.open, name)
		}
	}
	return nil
}

// listLanes is how many keys are read at a time for a list.
const listLanes = 8

// List implements keystore.Provider.
func (p *Provider) List(ctx context.Context) ([]keystore.Object, error) {
	ctx, cancel, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	names, err := p.names(ctx)
	if err != nil {
		return nil, err
	}
	rest, stop := context.WithCancelCause(ctx) // for nothing once one cannot be read
	defer stop(nil)
	objects := make([]keystore.Object, len(names))
	lanes := make(chan struct{}, listLanes)
	var all sync.WaitGroup
	for i, name := range names {
		lanes <- struct{}{}
		if rest.Err() != nil {
			break
		}
		all.Go(func() {
			defer func() { <-lanes }()
			var err error
			if objects[i], err = p.object(rest, name); err != nil {
				stop(err) // the first counts
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, gaveUp(ctx)
	}
	if rest.Err() != nil {
		return nil, context.Cause(rest)
	}
	if err := p.sameMount(ctx); err != nil { // what is not in another one is not lost
		return nil, err
	}
	return slices.DeleteFunc(objects, func(o keystore.Object) bool { return o.Label == "" }), nil
}

// object describes a key; the zero Object if it has gone since it was listed.
func (p *Provider) object(ctx context.Context, name string) (keystore.Object, error) {
	info, err := p.read(ctx, name)
	if isKind(err, absent) {
		return keystore.Object{}, nil
	}
	if err != nil {
		return keystore.Object{}, err
	}
	return info.object(p.cfg.Mount, clean(name)), nil
}

// Destroy implements keystore.Provider. Deletion is allowed for this key and this
// moment, asked for once, and proven by a list and a reading.
func (p *Provider) Destroy(ctx context.Context, ref keystore.KeyRef) error {
	ctx, cancel, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := p.sameMount(ctx); err != nil {
		return err
	}
	names, err := p.others(ctx, ref.ID)
	if err != nil {
		return err
	}
	for _, name := range names { // all are looked at before any is deleted
		info, err := p.read(ctx, name)
		if isKind(err, absent) {
			continue
		}
		if err != nil {
			return err
		}
		if info.MinAvailable > onlyVersion { // it was trimmed: nothing of the pair is left but the name
			continue
		}
		spki, err := info.spki()
		if err != nil {
			return fmt.Errorf("%w: key %s: %w", keystore.ErrAmbiguous, name, err)
		}
		if !bytes.Equal(spki, ref.SPKI) {
			return fmt.Errorf("%w: key %s is another pair's", keystore.ErrAmbiguous, name)
		}
	}
	if err := p.Drop(ctx, ref.ID); err != nil {
		return err
	}
	for _, name := range names {
		if err := p.delete(ctx, ref.ID, name); err != nil {
			return fmt.Errorf("destroying key %s: %w", name, err)
		}
	}
	left, err := p.others(ctx, ref.ID)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%s is listed still", left[0])
	}
	if err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUncertain, err)
	}
	return nil
}

// delete deletes one key, and proves that it is gone. Its errors wrap
// keystore.ErrUncertain once Vault has been asked to.
func (p *Provider) delete(ctx context.Context, id keystore.KeyID, name string) error {
	path := p.cfg.Mount + "/keys/" + name
	_, err := p.cluster.once(ctx, &request{method: "POST", path: path + "/config", body: map[string]bool{"deletion_allowed": true}, within: p.cfg.Deadlines.Create})
	switch t := troubleOf(err); {
	case err == nil, isKind(err, refused):
	case t == nil: // ctx is over: deletion may be allowed from now on
		return fmt.Errorf("%w: %w", keystore.ErrUncertain, err)
	case !t.done():
		return err
	}
	if err != nil {
		until, cancel := context.WithTimeout(ctx, p.cfg.Deadlines.Read)
		p.cluster.await(until)
		cancel()
	}
	_, err = p.cluster.once(ctx, &request{method: "DELETE", path: path, within: p.cfg.Deadlines.Create})
	within, cancel := context.WithTimeout(ctx, p.cfg.Deadlines.Read)
	defer cancel()
	p.cluster.await(within)
	_, look := p.find(within, id, name)
	switch {
	case errors.Is(look, keystore.ErrNotFound):
		return nil
	case look == nil && err == nil:
		err = errors.New("it is there still")
	case err == nil:
		err = look
	}
	return fmt.Errorf("%w: %w", keystore.ErrUncertain, err)
}
