package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"chancery/keystore"
)

// MaxKnown is how many versions of a key set the world may know at once.
const MaxKnown = 20

// Forms are compiled at their first use: every worker process of a token, which
// has none, is this same program.
func form(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

var nameForm = form(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// checkNew returns nil if ks may be created: whatever versions it has begin
// their lives, and nothing has been served.
func checkNew(ks *keystore.KeySet) error {
	if !ks.ServedAt.IsZero() {
		return illegal("a new key set has not been served")
	}
	before := ks.Clone()
	before.Promises, before.Versions = nil, nil
	return checkChange(before, ks)
}

// checkChange returns nil if a key set may go from before to after in one step.
// It looks at one key set; checkUnique looks at the others.
func checkChange(before, after *keystore.KeySet) error {
	if err := checkSet(after); err != nil {
		return err
	}
	switch {
	case after.Name != before.Name:
		return illegal("the name of key set %q never changes", before.Name)
	case after.Purpose != before.Purpose:
		return illegal("the purpose of key set %q never changes", before.Name)
	case !after.CreatedAt.Equal(before.CreatedAt):
		return illegal("when key set %q was created never changes", before.Name)
	case after.Revision != before.Revision:
		return illegal("the revision of key set %q is the catalog's to count", before.Name)
	case !after.ServedAt.Equal(before.ServedAt):
		return illegal("only an acknowledgement says when key set %q was served", before.Name)
	}
	if err := checkPromises(before, after); err != nil {
		return err
	}
	if len(after.Versions) < len(before.Versions) {
		return illegal("a version of key set %q is gone; versions are never removed", before.Name)
	}
	for i := range after.Versions {
		v := &after.Versions[i]
		err := error(nil)
		if i < len(before.Versions) {
			err = checkVersionChange(&before.Versions[i], v)
		} else {
			err = checkNewVersion(v)
		}
		if err != nil {
			return fmt.Errorf("key set %q version %d: %w", after.Name, v.Number, err)
		}
	}
	return nil
}

// checkSet returns nil if ks can stand in a catalog, whatever came before.
func checkSet(ks *keystore.KeySet) error {
	if !nameForm().MatchString(ks.Name) {
		return illegal("%q is no name for a key set: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit", ks.Name)
	}
	if _, err := keystore.ParsePurpose(string(ks.Purpose)); err != nil {
		return illegal("key set %q: %v", ks.Name, err)
	}
	if _, err := keystore.ParseAlgorithm(string(ks.Algorithm)); err != nil {
		return illegal("key set %q: %v", ks.Name, err)
	}
	if ks.Keystore == "" || ks.CreatedAt.IsZero() {
		return illegal("key set %q lacks its keystore or when it was created", ks.Name)
	}
	if err := checkFact(ks.RotateBy); err != nil {
		return illegal("key set %q: the rotation asked for %v", ks.Name, err)
	}
	active := 0
	for i := range ks.Versions {
		v := &ks.Versions[i]
		if v.Number != i+1 {
			return illegal("key set %q: version %d stands in place %d; numbers count from 1 and are never reused", ks.Name, v.Number, i+1)
		}
		if err := checkVersion(v); err != nil {
			return fmt.Errorf("key set %q version %d: %w", ks.Name, v.Number, err)
		}
		if v.State == keystore.Active {
			active++
		}
	}
	if active > 1 {
		return illegal("key set %q: %d versions active, at most one may be", ks.Name, active)
	}
	if known := len(ks.Known()); known > MaxKnown {
		return illegal("key set %q: %d versions known at once, at most %d may be", ks.Name, known, MaxKnown)
	}
	return nil
}

// checkVersion returns nil if v's members fit its state.
func checkVersion(v *keystore.Version) error {
	if _, err := keystore.ParseAlgorithm(string(v.Algorithm)); err != nil {
		return illegal("%v", err)
	}
	if v.Keystore == "" || v.KeyID.IsZero() || v.CreatedAt.IsZero() {
		return illegal("it lacks its keystore, its key id or when it was created")
	}
	if v.MaxLifetime < 0 {
		return illegal("its longest token lifetime is negative")
	}
	if err := checkFact(v.Suspended); err != nil {
		return illegal("its suspension %v", err)
	}
	if err := checkFact(v.Compromised); err != nil {
		return illegal("its compromise %v", err)
	}
	born := v.State != keystore.Pending && v.State != keystore.Abandoned
	if born != (v.KID != "") || born != (len(v.SPKI) > 0) {
		return illegal("a %v version has %s public key and KID", v.State, map[bool]string{true: "a", false: "no"}[born])
	}
	signed := !v.ActivatedAt.IsZero()
	gone := v.State == keystore.Retired || v.State == keystore.Destroyed
	for _, m := range []struct {
		what    string
		at      time.Time
		must    bool
		mustNot bool
	}{
		{"published", v.PublishedAt, born, !born},
		{"served", v.ServedAt, false, !born},
		{"activated", v.ActivatedAt, v.State == keystore.Active || v.State == keystore.Retiring, !born || v.State == keystore.Published},
		{"stopped", v.StoppedAt, v.State == keystore.Retiring || gone && signed, !signed || v.State == keystore.Active},
		{"retired", v.RetiredAt, gone, !gone},
		{"destroyed", v.DestroyedAt, v.State == keystore.Destroyed || v.State == keystore.Abandoned, v.State != keystore.Destroyed && v.State != keystore.Abandoned},
	} {
		if m.must && m.at.IsZero() {
			return illegal("%v, and not said when it was %s", v.State, m.what)
		}
		if m.mustNot && !m.at.IsZero() {
			return illegal("%v, and said to have been %s", v.State, m.what)
		}
	}
	return nil
}

// checkKey returns nil if KID, SPKI and algorithm of v belong together. It is
// dear, and asked once for each key.
func checkKey(v *keystore.Version) error {
	pub, err := v.Public()
	if err != nil {
		return illegal("its public key: %v", err)
	}
	if err := v.Algorithm.Fits(pub); err != nil {
		return illegal("its public key: %v", err)
	}
	der, err := keystore.MarshalPublic(pub)
	if err != nil || !bytes.Equal(der, v.SPKI) {
		return illegal("its public key is not in its one DER spelling")
	}
	if kid, err := keystore.Thumbprint(pub); err != nil || kid != v.KID {
		return illegal("its KID is not the thumbprint of its public key")
	}
	return nil
}

func checkNewVersion(v *keystore.Version) error {
	if v.State != keystore.Pending {
		return illegal("a version begins as pending, not %v", v.State)
	}
	if !v.ExpHorizon.IsZero() {
		return illegal("a version that begins has signed nothing")
	}
	return nil
}

// checkVersionChange returns nil if one version may go from b to a.
func checkVersionChange(b, a *keystore.Version) error {
	if a.State != b.State && !b.State.MayBecome(a.State) {
		return illegal("%v never becomes %v", b.State, a.State)
	}
	if a.Maker != b.Maker {
		return illegal("who made it never changes")
	}
	if a.Algorithm != b.Algorithm || a.Keystore != b.Keystore || a.KeyID != b.KeyID {
		return illegal("its algorithm, keystore and key id never change")
	}
	if b.KID != "" && (a.KID != b.KID || !bytes.Equal(a.SPKI, b.SPKI)) {
		return illegal("its public key and KID never change")
	}
	if b.KID == "" && a.KID != "" {
		if err := checkKey(a); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		what string
		b, a time.Time
	}{
		{"created", b.CreatedAt, a.CreatedAt},
		{"published", b.PublishedAt, a.PublishedAt},
		{"activated", b.ActivatedAt, a.ActivatedAt},
		{"stopped", b.StoppedAt, a.StoppedAt},
		{"retired", b.RetiredAt, a.RetiredAt},
		{"destroyed", b.DestroyedAt, a.DestroyedAt},
	} {
		if !m.b.IsZero() && !m.a.Equal(m.b) {
			return illegal("when it was %s never changes", m.what)
		}
		if m.b.IsZero() && !m.a.IsZero() && a.State == b.State {
			return illegal("it was not %s by staying %v", m.what, a.State)
		}
	}
	switch {
	case !a.ServedAt.Equal(b.ServedAt):
		return illegal("only an acknowledgement says when it was served")
	case a.ExpHorizon.Before(b.ExpHorizon):
		return illegal("its horizon is only raised")
	case a.MaxLifetime < b.MaxLifetime:
		return illegal("its longest token lifetime is only raised")
	case b.Compromised != nil && (a.Compromised == nil || !sameFact(a.Compromised, b.Compromised)):
		return illegal("a compromise is never taken back")
	case a.State == keystore.Active && b.State != keystore.Active && (a.Compromised != nil || a.Suspended != nil):
		return illegal("a suspended or compromised version is not activated")
	}
	return nil
}

// checkPromises returns nil if after only adds promises at the end. What the
// world's caches were told stays true until they forget it.
func checkPromises(before, after *keystore.KeySet) error {
	if len(after.Promises) < len(before.Promises) {
		return illegal("a promise of key set %q is gone; promises are never removed", before.Name)
	}
	for i, p := range after.Promises {
		if i < len(before.Promises) {
			b := before.Promises[i]
			if !p.At.Equal(b.At) || p.MaxAge != b.MaxAge || p.CacheFor != b.CacheFor || p.MaxLifetime != b.MaxLifetime {
				return illegal("a promise of key set %q never changes", before.Name)
			}
			continue
		}
		if p.At.IsZero() || p.MaxAge < 0 || p.CacheFor < 0 || p.MaxLifetime < 0 {
			return illegal("a promise of key set %q lacks its time or is negative", before.Name)
		}
	}
	return nil
}

func checkFact(f *keystore.Fact) error {
	if f != nil && f.At.IsZero() {
		return errors.New("does not say since when")
	}
	return nil
}

func sameFact(a, b *keystore.Fact) bool {
	return a.At.Equal(b.At) && a.By == b.By && a.Reason == b.Reason
}

// An identity is what only one version of the whole catalog may have.
type identity struct {
	keyset string
	number int
	keyID  keystore.KeyID
	kid    keystore.KID
	spki   keystore.SPKIHash
}

func identityOf(keyset string, v *keystore.Version) identity {
	id := identity{keyset: keyset, number: v.Number, keyID: v.KeyID, kid: v.KID}
	if len(v.SPKI) > 0 {
		id.spki = keystore.HashSPKI(v.SPKI)
	}
	return id
}

// checkUnique returns nil if no version of ks shares its key id, KID or public
// key with another version of ks or with one of taken, which may include ks's
// own. A key has one purpose for ever (FAULTS I9), so it has one row.
func checkUnique(ks *keystore.KeySet, taken []identity) error {
	keyIDs := make(map[keystore.KeyID]identity)
	kids := make(map[keystore.KID]identity)
	spkis := make(map[keystore.SPKIHash]identity)
	add := func(id identity) error {
		for _, other := range []identity{keyIDs[id.keyID], kids[id.kid], spkis[id.spki]} {
			if other.keyset != "" {
				return illegal("key set %q version %d: its key belongs to key set %q version %d already",
					id.keyset, id.number, other.keyset, other.number)
			}
		}
		keyIDs[id.keyID] = id
		if id.kid != "" {
			kids[id.kid], spkis[id.spki] = id, id
		}
		return nil
	}
	for _, id := range taken {
		if id.keyset == ks.Name {
			continue
		}
		if err := add(id); err != nil {
			return err
		}
	}
	for i := range ks.Versions {
		if err := add(identityOf(ks.Name, &ks.Versions[i])); err != nil {
			return err
		}
	}
	return nil
}
