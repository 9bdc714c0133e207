package pkcs11

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// A claim is what a provider has on the token that it uses: nobody else of the
// same state directory logs in to it meanwhile, under whatever name. Two
// keystores that name one token differently would each offer it a wrong PIN,
// and both make keys on it, which SoftHSM does not bear.
//
// It is a lock on a file, which the kernel gives back when the process ends. Two
// providers in one process exclude each other too: each has opened the file.
type claim struct {
	serial string // of the token, or its label
	lock   *flock.Flock
}

// claim makes the token this provider's own, until it claims another one or
// release is called. For whoever has p.starting alone.
func (p *Provider) claim(token tokenInfo) error {
	serial := cmp.Or(token.Serial, token.Label)
	if p.claimed.lock != nil && p.claimed.serial == serial {
		return nil
	}
	p.release()
	path := filepath.Join(p.cfg.StateDir, "token-"+escape(serial, "")+".lock")
	lock := flock.New(path, flock.SetPermissions(0o600))
	got, err := lock.TryLock()
	if err != nil {
		return errors.Join(fmt.Errorf("claiming the token: %w", err), lock.Close())
	}
	if !got {
		return errors.Join(claimedBy(path, token), lock.Close())
	}
	p.claimed = claim{serial, lock}
	// Who has it is for the words of claimedBy; it is as good without.
	os.WriteFile(path, []byte(p.cfg.Name+"\n"), 0o600)
	return nil
}

func claimedBy(path string, token tokenInfo) error {
	other := "another keystore"
	if b, err := os.ReadFile(path); err == nil && goodName(strings.TrimSpace(string(b))) {
		other = "keystore " + strings.TrimSpace(string(b))
	}
	return fmt.Errorf("token %q with serial %q is in use by %s (hint: a token belongs to one keystore; take one of the two out of the configuration)",
		token.Label, token.Serial, other)
}

// release gives the token back.
func (p *Provider) release() {
	if p.claimed.lock != nil {
		p.claimed.lock.Close() // the file stays, for whoever comes next
	}
	p.claimed = claim{}
}
