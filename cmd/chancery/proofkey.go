package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/client"
)

// A keySource returns the public key of a kid and its algorithm; ok is false where it
// has none of that kid.
type keySource func(keystore.KID) (client.Key, bool)

// keysOfProof returns the keys of the key set that flags name. A proof has the kid of
// an entry and not its key; a key with that thumbprint (RFC 7638) is the key, whoever
// gives it.
func (a *app) keysOfProof(ctx context.Context, where string) (keySource, error) {
	if where == "" {
		return func(keystore.KID) (client.Key, bool) { return client.Key{}, false }, nil
	}
	data, err := a.readKeySet(ctx, where)
	if err != nil {
		return nil, err
	}
	set, err := client.ParseKeys(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return func(kid keystore.KID) (client.Key, bool) {
		key, ok := set[string(kid)]
		if !ok {
			return client.Key{}, false
		}
		is, err := keystore.Thumbprint(key.Public)
		return key, err == nil && is == kid
	}, nil
}

// readKeySet reads a key set from a file or fetches it.
func (a *app) readKeySet(ctx context.Context, where string) ([]byte, error) {
	if !isURL(where) {
		return a.readAll(ctx, where, largestPublished)
	}
	u, err := url.Parse(where)
	if err != nil || u.Host == "" {
		return nil, usagef("%s is not a URL like https://keys.example/issuers/web/jwks.json", where)
	}
	client, err := a.publicClient()
	if err != nil {
		return nil, err
	}
	return fetch(ctx, client, where)
}

// withIssuer puts the certificates of the file that --issuer names behind those of
// data, where the issuer's is looked for.
func (a *app) withIssuer(ctx context.Context, data []byte, path string) ([]byte, error) {
	if path == "" {
		return data, nil
	}
	more, err := a.readAll(ctx, path, largestMatch)
	if err != nil {
		return nil, err
	}
	return bytes.Join([][]byte{data, more}, []byte("\n")), nil
}

// provenMatch says what the entry of a proof, the only one there is, has to do with i.
// Only a signature by the key of that entry makes it more than a name: whoever has
// seen the proof can write a token with the jti, kid and exp in it.
func (i *issued) provenMatch(at audit.Located, keys keySource) matched {
	if !i.is(&at.Entry) {
		return matched{match: matchNone, why: "the entry is of something else"}
	}
	m := judge(i, []audit.Located{at})
	if !m.match.sound() {
		return m
	}
	for _, pub := range i.beside {
		if kid, err := keystore.Thumbprint(pub); err == nil && kid == at.Entry.KID {
			return i.signedBy(client.Key{Public: pub}, m)
		}
	}
	key, ok := keys(at.Entry.KID)
	if !ok {
		return m.unchecked()
	}
	return i.signedBy(key, m)
}

// signedBy returns m if i is signed by key, the one of m's entry.
func (i *issued) signedBy(key client.Key, m matched) matched {
	if i.verify(keystore.Algorithm(key.Algorithm), key.Public) != nil {
		return matched{matchCounterfeit, m.entry, "it is not signed by the key of that entry"}
	}
	return m
}

// howToCheck tells how a signature that was not checked can be.
func (i *issued) howToCheck() string {
	if i.token {
		return "give the key set with the key of the entry, published or kept from then, with --jwks FILE|URL"
	}
	return "give the certificate of its issuer, whose key is that of the entry, with --issuer FILE"
}

// words tells a match of the entry that was printed before it.
func (m match) words() string {
	if m == matchNamed {
		return "named by this entry"
	}
	return string(m)
}
