package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/cmd/internal/config/policyfile"
	"chancery/keystore"
)

// Load reads the configuration file at path and checks everything that can be
// checked without a token. The findings are in the order of the file. The
// Config is nil if there is none to speak of, and must not be used if Failed
// says so of the findings; it still says where its members stand.
func Load(path string) (*Config, []Finding) { return load(path, time.Now()) }

func load(path string, now time.Time) (*Config, []Finding) {
	f := &findings{document.New(path)}
	abs, err := filepath.Abs(path)
	if err != nil {
		f.Add(position{}, "", Error, "", "%v", err)
		return nil, f.List
	}
	text, err := read(abs)
	if err != nil {
		f.Add(position{}, "", Error, "", "%v", reason(err))
		return nil, f.List
	}
	if err := checkTrusted(abs); err != nil {
		f.Add(position{}, "", Error, "chown root and chmod go-w the file and its directory", "%v", err)
	}
	c := f.decode(text)
	if c == nil {
		return nil, f.Sorted()
	}
	c.fill(f, filepath.Dir(abs))
	check(c, f, now)
	return c, f.Sorted()
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, document.MaxFile+1))
	if err == nil && len(text) > document.MaxFile {
		err = fmt.Errorf("it is larger than %d bytes", document.MaxFile)
	}
	return text, err
}

// decode turns text into a Config of what was written, or nil.
func (f *findings) decode(text []byte) *Config {
	sum := sha256.Sum256(text)
	c := &Config{file: f.File, hash: hex.EncodeToString(sum[:]), positions: f.Positions}
	if !f.Decode(text, c) {
		return nil
	}
	return c
}

// fill puts in what was not said, and makes paths absolute.
func (c *Config) fill(f *findings, dir string) {
	l := &c.Listeners
	for _, p := range []*string{
		&c.Data, &l.Signing.Socket, &l.Signing.Certificate, &l.Signing.Key, &l.Ops.Socket, &l.Ops.Certificate, &l.Ops.Key,
		&l.Public.Certificate, &l.Public.Key, &l.Admin.Socket,
	} {
		absolute(p, dir)
	}
	if l.Ops.Certificate == "" && l.Ops.Key == "" {
		l.Ops.Certificate, l.Ops.Key = l.Signing.Certificate, l.Signing.Key
	}
	if l.Signing.ServerName == "" {
		l.Signing.ServerName = DefaultServerName
	}
	if l.Ops.ServerName == "" {
		l.Ops.ServerName = l.Signing.ServerName
	}
	for i := range c.Clients {
		absolute(&c.Clients[i].CA, dir)
		for j := range c.Clients[i].CRL {
			absolute(&c.Clients[i].CRL[j], dir)
		}
	}
	for name, k := range c.Keystores {
		k.fill(name, dir)
		c.Keystores[name] = k
	}
	c.Catalog.fill(dir)
	c.Audit.fill(dir)
	c.fillAuthorities(f)
	c.profiles = policyfile.ClaimsProfiles(f.Findings, c.ClaimsProfiles)
	for name, ks := range c.KeySets {
		ks.Name = name
		ks.fill()
		c.KeySets[name] = ks
	}
	for name, a := range c.Authorities {
		a.Skew = c.KeySets[a.KeySet].Skew
		c.Authorities[name] = a
	}
}

func absolute(path *string, dir string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(dir, *path)
	}
}

func (ks *KeySet) fill() {
	if ks.MaxAge == 0 {
		ks.MaxAge = DefaultMaxAge
	}
	if ks.CacheFor == 0 {
		ks.CacheFor = cacheFor(ks.Caches)
	}
	if ks.CacheFor == 0 {
		ks.CacheFor = DefaultCacheFactor * ks.MaxAge
	}
	if ks.Skew == 0 {
		ks.Skew = DefaultSkew
	}
	if ks.Purpose == keystore.PurposeDigest && ks.Retain == 0 {
		ks.Retain = DefaultRetain
	}
	if ks.Purpose != "jwt" {
		return
	}
	if ks.MaxTTL == 0 {
		ks.MaxTTL = DefaultMaxTTL
	}
	if ks.DefaultTTL == 0 {
		ks.DefaultTTL = min(DefaultTTL, ks.MaxTTL)
	}
}
