package config

import (
	"fmt"
	"time"

	"chancery/keystore/pkcs11"
	"chancery/signer/limit"
	"chancery/signer/policy"
	"chancery/signer/queue"
)

// DoorLimits bound what the connections of a listener may cost. What is not said is
// the listener's own default: see the package's documentation.
type DoorLimits struct {
	Handshake      time.Duration `yaml:"handshake"`
	ReadHeader     time.Duration `yaml:"read_header"`
	Read           time.Duration `yaml:"read"`
	Write          time.Duration `yaml:"write"`
	Idle           time.Duration `yaml:"idle"`
	Connections    int           `yaml:"connections"`
	PerPeer        int           `yaml:"per_peer"`
	HeaderBytes    int           `yaml:"header_bytes"`
	Body           int           `yaml:"body"`
	BatchBody      int           `yaml:"batch_body"`
	RequestTimeout time.Duration `yaml:"request_timeout"`
	GRPC           GRPCLimits    `yaml:"grpc"` // of the signing listener only
}

// Limits bound what principals may ask for.
type Limits struct {
	Default    Allowance          `yaml:"default"`
	Principals []PrincipalsLimits `yaml:"principals"`
	Queue      QueueLimits        `yaml:"queue"`
}

// An Allowance is what one principal may ask for.
type Allowance struct {
	Rate       int   `yaml:"rate"` // 0: any
	Burst      int   `yaml:"burst"`
	Concurrent int   `yaml:"concurrent"`
	Weight     int   `yaml:"weight"`
	Quota      Quota `yaml:"quota"`
}

// A Quota is how many signatures an hour or a day raise an alert.
type Quota struct {
	Signatures int           `yaml:"signatures"`
	Per        time.Duration `yaml:"per"`
	Refuse     bool          `yaml:"refuse"`
}

// PrincipalsLimits are those of one principal; what is not said is as for all others.
type PrincipalsLimits struct {
	Principal  string `yaml:"principal,required"`
	Rate       int    `yaml:"rate"`
	Burst      int    `yaml:"burst"`
	Concurrent int    `yaml:"concurrent"`
	Weight     int    `yaml:"weight"`
	Quota      Quota  `yaml:"quota"`
}

// QueueLimits bound the queue before each keystore.
type QueueLimits struct {
	Window       int `yaml:"window"`
	Waiting      int `yaml:"waiting"`
	PerPrincipal int `yaml:"per_principal"`
}

// LimitConfig returns the limits of principals as package limit takes them.
func (c *Config) LimitConfig() limit.Config {
	d := c.Limits.Default
	cfg := limit.Config{Default: limit.Limit{
		Rate: d.Rate, Burst: d.Burst, Concurrent: d.Concurrent, Weight: d.Weight, Quota: limit.Quota(d.Quota),
	}}
	cfg.Principals = make(map[policy.Principal]limit.Limit, len(c.Limits.Principals))
	for i, p := range c.Limits.Principals {
		who, err := policy.ParsePrincipal(p.Principal)
		if err != nil {
			continue // a finding
		}
		path := fmt.Sprintf("limits.principals[%d]", i)
		l := cfg.Default
		if _, said := c.positions[path+".rate"]; said { // 0: any
			l.Rate, l.Burst = p.Rate, 0
		}
		for _, m := range []struct {
			into *int
			said int
		}{{&l.Burst, p.Burst}, {&l.Concurrent, p.Concurrent}, {&l.Weight, p.Weight}} {
			if m.said != 0 {
				*m.into = m.said
			}
		}
		if _, said := c.positions[path+".quota"]; said {
			l.Quota = limit.Quota(p.Quota)
		}
		cfg.Principals[who] = l
	}
	return cfg
}

// Queue returns the bounds of the queue before a keystore.
func (c *Config) Queue(keystore string) queue.Limits {
	q := c.Limits.Queue
	l := queue.Limits{Window: q.Window, Waiting: q.Waiting, Each: q.PerPrincipal}
	if ks := c.Keystores[keystore]; l.Window == 0 && ks.PKCS11 != nil {
		workers := ks.PKCS11.Workers
		if workers == 0 {
			workers = pkcs11.DefaultWorkers
		}
		l.Window = workers * queue.WindowPerWorker
	}
	if c.Keystores[keystore].PKCS11 != nil { // a Vault is asked for a batch in one request
		l.Portion = queue.WindowPerWorker
	}
	return l
}

// shares checks the limits of principals.
func (k checker) shares() {
	d := k.Limits.Default
	k.allowance("limits.default", d)
	seen := make(map[string]bool)
	for i, p := range k.Limits.Principals {
		path := fmt.Sprintf("limits.principals[%d]", i)
		a := Allowance{p.Rate, p.Burst, p.Concurrent, p.Weight, p.Quota}
		if a.Rate == 0 && !k.has(path+".rate") {
			a.Rate = d.Rate
		}
		k.allowance(path, a)
		if p.Principal == "" {
			continue // missing: said already
		}
		if _, err := policy.ParsePrincipal(p.Principal); err != nil {
			k.errorf(path+".principal", "as in the rules of policy", "%.80q: %v", p.Principal, err)
		}
		if seen[p.Principal] {
			k.errorf(path+".principal", "remove one of them", "%.80q is there twice", p.Principal)
		}
		seen[p.Principal] = true
	}
	q := k.Limits.Queue
	k.between("limits.queue.window", q.Window, 1, 4096)
	k.between("limits.queue.waiting", q.Waiting, 1, 1_000_000)
	k.between("limits.queue.per_principal", q.PerPrincipal, 1, 1_000_000)
	waiting, each := q.Waiting, q.PerPrincipal
	if waiting == 0 {
		waiting = queue.DefaultWaiting
	}
	if each > waiting {
		k.errorf("limits.queue.per_principal", "", "%d of one principal are more than wait in all, %d", each, waiting)
	}
}

func (k checker) allowance(path string, a Allowance) {
	if a.Rate < 0 {
		k.errorf(path+".rate", "0 for any", "%d is negative", a.Rate)
	}
	k.between(path+".burst", a.Burst, 1, 1_000_000)
	if k.has(path+".burst") && a.Rate == 0 {
		k.errorf(path+".burst", "add rate, or remove it", "there is no rate that it could be over")
	}
	k.between(path+".concurrent", a.Concurrent, 1, 1_000_000)
	k.between(path+".weight", a.Weight, 1, queue.MaxWeight)
	k.between(path+".quota.signatures", a.Quota.Signatures, 1, 1<<31-1)
	if per := a.Quota.Per; per != 0 && per != limit.Hour && per != limit.Day && !k.Unread[path+".quota.per"] {
		k.errorf(path+".quota.per", "1h, or 24h", "%v is neither an hour nor a day", per)
	}
}

// between checks a number that was said.
func (k checker) between(path string, n, least, most int) {
	if k.has(path) && !k.Unread[path] && (n < least || n > most) {
		k.errorf(path, "", "%d: want %d to %d", n, least, most)
	}
}

// door checks the limits of a listener.
func (k checker) door(path string, l DoorLimits) {
	speaks := path == "listeners.signing"
	path += ".limits"
	k.grpc(path+".grpc", l.GRPC, speaks)
	k.between(path+".connections", l.Connections, 1, 1_000_000)
	k.between(path+".per_peer", l.PerPeer, 1, 1_000_000)
	k.between(path+".header_bytes", l.HeaderBytes, 4<<10, 1<<20)
	k.between(path+".body", l.Body, 1<<10, 16<<20)
	k.between(path+".batch_body", l.BatchBody, 1<<10, 64<<20)
	if l.PerPeer != 0 && l.Connections != 0 && l.PerPeer > l.Connections {
		k.errorf(path+".per_peer", "", "%d of one peer are more than all connections, %d", l.PerPeer, l.Connections)
	}
	if l.ReadHeader != 0 && l.Read != 0 && l.ReadHeader > l.Read {
		k.errorf(path+".read_header", "", "%v is more than read, %v, which is for header and body", l.ReadHeader, l.Read)
	}
	if l.RequestTimeout != 0 && l.Write != 0 && l.RequestTimeout >= l.Write {
		k.errorf(path+".request_timeout", "raise write, or lower it", "no answer could be written that takes %v: write is %v", l.RequestTimeout, l.Write)
	}
}
