package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"chancery/keystore/audit"
)

// keyFile is a witness's private key: one line, PRIVATE+KEY+NAME+ID+base64 of
// the type 0x04 and the seed, as golang.org/x/mod/sumdb/note spells signer keys.
const keyFile = "key"

const privatePrefix = "PRIVATE+KEY+"

// LoadKey returns the witness's key in dir, a directory that is there. If there
// is none it makes one of the given name, with mode 0600 and on stable storage
// before it returns. It returns an error if the key there has another name; an
// empty name takes any.
func LoadKey(dir, name string) (*audit.Cosigner, error) {
	path := filepath.Join(dir, keyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path, name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the witness's key: %w", err)
	}
	key, err := parseKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if name != "" && key.Key.Name() != name {
		return nil, fmt.Errorf("the witness in %s is called %s (hint: leave out the name, or use another directory for another witness)", dir, key.Key.Name())
	}
	return key, nil
}

func makeKey(path, name string) (*audit.Cosigner, error) {
	if name == "" {
		return nil, errors.New("a new witness needs a name")
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the witness's key: %w", err)
	}
	key, err := audit.NewCosigner(name, private)
	if err != nil {
		return nil, err
	}
	if err := writeDurably(path, formatKey(key, private), 0o600); err != nil {
		return nil, fmt.Errorf("writing the witness's key: %w", err)
	}
	return key, nil
}

func formatKey(key *audit.Cosigner, private ed25519.PrivateKey) []byte {
	material := append([]byte{0x04}, private.Seed()...)
	return []byte(privatePrefix + key.Key.String() + "+" + base64.StdEncoding.EncodeToString(material) + "\n")
}

func parseKey(text string) (*audit.Cosigner, error) {
	rest, isKey := strings.CutPrefix(text, privatePrefix)
	name, rest, _ := strings.Cut(rest, "+")
	_, b64, _ := strings.Cut(rest, "+")
	material, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(b64, "\n"))
	if !isKey || err != nil || len(material) != 1+ed25519.SeedSize {
		return nil, errors.New("it is no witness's key")
	}
	private := ed25519.NewKeyFromSeed(material[1:])
	key, err := audit.NewCosigner(name, private)
	if err != nil {
		return nil, err
	}
	if string(formatKey(key, private)) != text {
		return nil, errors.New("the witness's key does not fit its id")
	}
	return key, nil
}
