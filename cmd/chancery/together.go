package main

import (
	"context"
	"strings"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// A keyName is what a catalog calls a key.
type keyName struct {
	keyset  string
	version int
}

// named are the keys that a node's lifecycle log tells of.
type named struct {
	dir, node string // node: HOST/audit/NODE; empty: there is no entry
	keys      map[keyName]keystore.KID
}

// namedIn reads what the log in dir tells of, as far as it can be read: what is wrong
// with it whoever verifies it says.
func namedIn(ctx context.Context, dir string) named {
	n := named{dir: dir, keys: map[keyName]keystore.KID{}}
	for at, err := range audit.EntriesContext(ctx, dir, audit.Filter{Log: "lifecycle"}) {
		if err != nil {
			break
		}
		n.node = strings.TrimSuffix(at.Origin, "/lifecycle")
		if e := &at.Entry; e.KeySet != "" && e.Version > 0 && e.KID != "" {
			n.keys[keyName{e.KeySet, e.Version}] = e.KID
		}
	}
	return n
}

// apart returns a version that both have, of which each has another key, if there is
// no key that both have: then they are of two catalogs.
func (n named) apart(other named) (version keyName, apart bool) {
	kids := map[keystore.KID]bool{}
	for _, kid := range n.keys {
		kids[kid] = true
	}
	for name, kid := range other.keys {
		if kids[kid] {
			return keyName{}, false
		}
		first := !apart || name.keyset < version.keyset || name.keyset == version.keyset && name.version < version.version
		if _, both := n.keys[name]; both && first {
			version, apart = name, true
		}
	}
	return version, apart
}

// together returns an error unless the logs in dirs can be read as those of the nodes
// of one catalog: each of another node, and not of other keys by the same names.
func together(ctx context.Context, dirs []string) error {
	if len(dirs) < 2 {
		return nil
	}
	var seen []named
	for _, dir := range dirs {
		n := namedIn(ctx, dir)
		for _, s := range seen {
			if n.node != "" && n.node == s.node {
				return hinted{usagef("%s and %s are both logs of %s", s.dir, dir, n.node), "give the log of each node once"}
			}
			if v, apart := s.apart(n); apart {
				return hinted{
					usagef("%s and %s share no catalog: version %d of %s is the key %s in one, and %s in the other", s.dir, dir, v.version, v.keyset, s.keys[v], n.keys[v]),
					"--node-dir takes the logs of nodes that share the catalog: ask of each of these alone",
				}
			}
		}
		seen = append(seen, n)
	}
	return nil
}
