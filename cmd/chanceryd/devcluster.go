package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/pflag"

	"chancery/cmd/internal/config"
)

// devCluster is what chanceryd dev was told of several nodes; the zero value is
// one with a catalog of its own.
type devCluster struct {
	URL          string `json:"url,omitempty"` // of the database that keeps the catalog
	PasswordFile string `json:"password_file,omitempty"`
	Join         string `json:"join,omitempty"` // the directory of the first node
	Node         string `json:"node,omitempty"`
}

// flags adds the flags that say it.
func (c *devCluster) flags(f *pflag.FlagSet, when string) {
	f.StringVar(&c.URL, "postgres", "", "the URL of a PostgreSQL database to keep the catalog in, for several nodes"+when)
	f.StringVar(&c.PasswordFile, "postgres-password-file", "", "the file with its password"+when)
	f.StringVar(&c.Join, "join", "", "the DIR of a node with --postgres, to be another one beside it, with its token, root and clients"+when)
	f.StringVar(&c.Node, "node", "", "what this node is called; default dev"+when)
}

// checked returns c with absolute paths, or a usage error.
func (c devCluster) checked() (devCluster, error) {
	wrong := func(hint, format string, args ...any) (devCluster, error) {
		return c, usageError{hinted{fmt.Errorf(format, args...), hint}}
	}
	switch {
	case c.Join != "" && (c.URL != "" || c.PasswordFile != ""):
		return wrong("chanceryd dev --dir DIR2 --join DIR --node NAME", "--join takes the database from the node it joins")
	case c.Join != "" && c.Node == "":
		return wrong("chanceryd dev --dir DIR2 --join DIR --node NAME", "a further node needs a name of its own")
	case c.PasswordFile != "" && c.URL == "":
		return wrong("chanceryd dev --dir DIR --postgres URL --postgres-password-file FILE", "--postgres-password-file goes with --postgres")
	}
	for _, path := range []*string{&c.PasswordFile, &c.Join} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return c, err
		}
		*path = abs
	}
	return c, nil
}

// postgres returns where the catalog is, or nil.
func (c devCluster) postgres() *config.Postgres {
	if c.URL == "" {
		return nil
	}
	return &config.Postgres{URL: c.URL, PasswordFile: c.PasswordFile}
}

// join makes dir a further node beside the one in c.Join: its root, its server's
// and clients' certificates, and what else it was told. It returns that, and the
// configuration of the first node.
func (c devCluster) join(dir string) (devState, *config.Config, error) {
	var first devState
	cfg, err := loadConfig(filepath.Join(c.Join, "config.yaml"))
	if err != nil {
		return first, nil, fmt.Errorf("the node to join: %w", err)
	}
	first, unmade, err := devOptions{}.state(c.Join)
	switch {
	case err != nil:
		return first, nil, fmt.Errorf("the node to join: %w", err)
	case unmade:
		return first, nil, hinted{fmt.Errorf("%s was not made by chanceryd dev", c.Join), "start the first node before"}
	case cfg.Catalog.Postgres == nil:
		return first, nil, hinted{fmt.Errorf("the node in %s has a catalog of its own", c.Join), "start the first node with --postgres"}
	}
	for _, name := range []string{"ca.crt", "pki", "clients"} {
		if err := copyAll(filepath.Join(c.Join, name), filepath.Join(dir, name)); err != nil {
			return first, nil, err
		}
	}
	return first, cfg, nil
}

// joined returns what the first start of a further node in dir is told: as much as
// can be as the node it joins was.
func (s devState) joined(dir string) (devState, config.DevOptions, error) {
	first, cfg, err := s.Cluster.join(dir)
	if err != nil {
		return s, config.DevOptions{}, err
	}
	s.Fast, s.Module, s.Vault = first.Fast, first.Module, first.Vault
	token := cfg.Keystores["hsm"].PKCS11
	if token == nil {
		return s, config.DevOptions{}, hinted{fmt.Errorf("the node to join has no keystore \"hsm\" on PKCS#11"), "join a node that chanceryd dev made"}
	}
	return s, config.DevOptions{
		Node: s.Cluster.Node, Dir: dir, Fast: first.Fast, Module: token.Module, Token: token.Token, Env: token.Env,
		Transit: first.Vault.keystore(), Postgres: cfg.Catalog.Postgres, PublicURL: cfg.PublicURL,
	}, nil
}

// copyAll copies a file, or a directory of files. What is there already stays.
func copyAll(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return renameio.WriteFile(target, b, info.Mode().Perm())
	})
}
