package pkcs11

import (
	"bytes"
	"context"
	"fmt"

	"github.com/miekg/pkcs11"

	"chancery/keystore"
)

// destroy removes the pair of that name from the token: the private half first,
// so that one cut short leaves a public key and never a key that signs unseen.
func (m *module) destroy(name keyName) error {
	id := keystore.KeyID(name[:len(keystore.KeyID{})])
	private, err := m.search(pkcs11.CKO_PRIVATE_KEY, id)
	if err != nil {
		return err
	}
	public, err := m.search(pkcs11.CKO_PUBLIC_KEY, id)
	if err != nil {
		return err
	}
	if len(private) == 0 && len(public) == 0 {
		return nil
	}
	if len(private) > 1 || len(public) != 1 {
		return fmt.Errorf("%w: %d private and %d public keys with CKA_ID %s (hint: nothing was destroyed; look at them with the vendor's tool)",
			keystore.ErrAmbiguous, len(private), len(public), id)
	}
	if spki := m.spki(public[0]); spki == nil || nameOf(id, spki) != name {
		return fmt.Errorf("%w: the token has another public key under CKA_ID %s; nothing was destroyed", keystore.ErrAmbiguous, id)
	}
	for _, object := range append(private, public...) {
		if err := m.ctx.DestroyObject(m.desk, object); err != nil {
			return fmt.Errorf("C_DestroyObject: %w", err)
		}
	}
	return nil
}

// Destroy implements keystore.Provider. The workers that hold the key go before,
// all others after: a session copy outlives the object it was copied from, but
// not its process. That nothing is left is what a
// process sees that was started afterwards.
func (p *Provider) Destroy(ctx context.Context, ref keystore.KeyRef) error {
	if err := p.Drop(ctx, ref.ID); err != nil {
		return err
	}
	name := nameOf(ref.ID, ref.SPKI)
	err := p.errand(ctx, true, func(g *generation, at *place) error {
		_, err := g.ask(ctx, at, verbDestroy, p.cfg.Deadlines.Find, name[:])
		return err
	})
	if err != nil {
		return fmt.Errorf("destroying key %s: %w", ref.ID, err)
	}
	// All that serve or are about to, since a module may show for ever what was there
	// at its login, and sign with it.
	if err := p.relieve(ctx, p.hall.renew(p.views.Load())); err != nil {
		return fmt.Errorf("%w: key %s was destroyed on the token; %w", keystore.ErrUncertain, ref.ID, err)
	}
	list, err := p.List(ctx)
	if err != nil {
		return fmt.Errorf("%w: key %s was destroyed, and whether it is gone could not be seen: %w", keystore.ErrUncertain, ref.ID, err)
	}
	for _, o := range list {
		if o.ID == ref.ID.String() || bytes.Equal(o.SPKI, ref.SPKI) {
			return fmt.Errorf("%w: key %s is on the token still", keystore.ErrUncertain, ref.ID)
		}
	}
	return nil
}
