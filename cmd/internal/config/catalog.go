package config

import (
	"fmt"
	"reflect"
	"time"

	"chancery/keystore/catalog"
)

// DefaultPublishingLease is how long a node that has lost the catalog goes on
// serving key sets, where the file does not say: long enough for a database to be
// put back, since a rotation waits for such a node as long.
const DefaultPublishingLease = 10 * time.Minute

// shortestPublishingLease: a node renews its leases each second, and one that
// answers 503 for each small trouble of the database serves nobody.
const shortestPublishingLease = 2 * Lease

// A Catalog is where key sets and all that belongs to them are kept.
type Catalog struct {
	Postgres *Postgres `yaml:"postgres"` // nil: a file in the data directory, of one node
	// PublishingLease is how long a node that has lost the catalog may serve what it
	// last knew.
	PublishingLease time.Duration `yaml:"publishing_lease"`
}

// Postgres is a PostgreSQL database, which several nodes share.
type Postgres struct {
	URL          string `yaml:"url,required"`
	PasswordFile string `yaml:"password_file"`
}

// Shared reports whether other nodes may have the same catalog.
func (c Catalog) Shared() bool { return c.Postgres != nil }

func (c Catalog) equal(o Catalog) bool { return reflect.DeepEqual(c, o) }

func (c *Catalog) fill(dir string) {
	if c.Postgres == nil {
		return
	}
	absolute(&c.Postgres.PasswordFile, dir)
	if c.PublishingLease == 0 {
		c.PublishingLease = DefaultPublishingLease
	}
}

func (k checker) catalog() {
	c := k.Config.Catalog
	if c.Postgres == nil {
		if k.has("catalog.publishing_lease") {
			k.errorf("catalog.publishing_lease", "remove it", "a node with a catalog of its own serves for as long as it runs")
		}
		return
	}
	if c.PublishingLease < shortestPublishingLease {
		k.errorf("catalog.publishing_lease", fmt.Sprintf("%v is usual", DefaultPublishingLease), "%v is less than %v", c.PublishingLease, shortestPublishingLease)
	}
	if url := c.Postgres.URL; url != "" {
		if err := catalog.CheckURL(url); err != nil {
			k.errorf("catalog.postgres.url", "postgres://chancery@db.example.com/chancery?sslmode=verify-full", "%v", err)
		}
	}
	if file := c.Postgres.PasswordFile; file != "" {
		if err := checkSecret(file, 0o077); err != nil {
			k.errorf("catalog.postgres.password_file", "", "%v", err)
		}
	}
}
