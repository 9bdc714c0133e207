package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog/postgrestest"
	"chancery/rotation"
	"chancery/signer/api"
	"chancery/signer/client"
)

// A cluster is nodes of one catalog: daemons with a PostgreSQL, to which each goes
// by a proxy of its own, and one token.
type cluster struct {
	t      *testing.T
	server *postgrestest.Server
	nodes  []*member
	crowds []*crowd
	judge  *judge
	killed *member // the node that the scenario kills; nil: it kills none
}

// A member is a node of a cluster. Its daemon is another one after a restart.
type member struct {
	*chanceryd
	name    string
	proxy   *postgrestest.Proxy // nil: none on its way
	clients map[string]*client.Client
}

// client returns the one client there is of a role: a door has room for so many
// connections.
func (m *member) client(role string) *client.Client {
	m.t.Helper()
	if m.clients[role] == nil {
		m.clients[role] = m.chanceryd.client(role)
	}
	return m.clients[role]
}

const clusterDatabase = "chancery"

// newCluster starts n nodes, a, b and so on, and a judge of them.
func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := startDatabase(t)
	for range n {
		proxy := c.server.Proxy(t)
		c.join(proxy, proxy.URL(clusterDatabase))
	}
	c.observe()
	return c
}

// observe starts the judge, once all nodes serve and sign.
func (c *cluster) observe() {
	c.t.Helper()
	c.wantCalm(time.Now(), againWithin)
	c.judge = c.watch("web", "edge")
}

// startDatabase starts a cluster's database, and no node.
func startDatabase(t *testing.T) *cluster {
	t.Helper()
	needSoftHSM(t)
	c := &cluster{t: t, server: postgrestest.Start(t)}
	c.server.Create(clusterDatabase)
	return c
}

// join starts another node, with the database at a URL.
func (c *cluster) join(proxy *postgrestest.Proxy, url string) *member {
	c.t.Helper()
	m := &member{name: string(rune('a' + len(c.nodes))), proxy: proxy, clients: make(map[string]*client.Client)}
	dir := tempDir(c.t)
	if len(c.nodes) == 0 {
		m.chanceryd = startDev(c.t, dir, "--fast", "--postgres", url, "--node", m.name)
	} else { // it takes the URL from the first one's configuration
		first := c.nodes[0].chanceryd
		was := first.pointAt(url)
		m.chanceryd = startDev(c.t, dir, "--join", first.dir, "--node", m.name)
		first.pointAt(was)
	}
	c.nodes = append(c.nodes, m)
	return m
}

// pointAt writes where the database is into the configuration, and returns where
// it was.
func (d *chanceryd) pointAt(url string) (was string) {
	d.t.Helper()
	path := filepath.Join(d.dir, "config.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	i := slices.IndexFunc(lines, func(line string) bool {
		return strings.Contains(line, "url: ") && strings.Contains(line, "postgres://")
	})
	if i < 0 {
		d.t.Fatalf("%s names no database:\n%s", path, text)
	}
	at := strings.Index(lines[i], "url: ") + len("url: ")
	was, lines[i] = strings.Trim(lines[i][at:], `"'`), lines[i][:at]+fmt.Sprintf("%q", url)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return was
}

// restart starts the daemon of a node that has ended.
func (m *member) restart() {
	m.t.Helper()
	m.chanceryd = startDev(m.t, m.dir)
}

// issuers starts issuers at every node.
func (c *cluster) issuers(each int) {
	for _, m := range c.nodes {
		c.crowds = append(c.crowds, m.crowd(each, 60*time.Millisecond, "web", "edge"))
	}
}

// rotateNow rotates a key set at a node as soon as that is safe.
func (c *cluster) rotateNow(m *member, keyset string, within time.Duration) *api.RotateReply {
	c.t.Helper()
	var reply *api.RotateReply
	operator := m.client("operator")
	m.within(within, "node "+m.name+" rotates "+keyset, func() (err error) {
		reply, err = operator.Rotate(c.t.Context(), keyset, api.OperateRequest{Reason: "a scenario", When: "now"})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
		}
		return err
	})
	return reply
}

// wantCalm waits until all nodes serve the same sets and all of them sign, by
// themselves, and returns how long after since that was.
func (c *cluster) wantCalm(since time.Time, within time.Duration) time.Duration {
	c.t.Helper()
	first := c.nodes[0]
	first.within(time.Until(since.Add(within)), "all nodes serve the same sets, and sign", func() error {
		for _, keyset := range []string{"web", "legacy", "edge"} {
			if err := c.same(keyset); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(since).Round(time.Millisecond)
	c.t.Attr("recovered", took.String())
	return took
}

// same returns nil if all nodes serve the same set and sign with a version of it.
func (c *cluster) same(keyset string) error {
	var kids []string
	for i, m := range c.nodes {
		got := m.kids(keyset)
		switch {
		case len(got) == 0:
			return fmt.Errorf("node %s does not serve %s", m.name, keyset)
		case i == 0:
			kids = got
		case !slices.Equal(got, kids):
			return fmt.Errorf("of %s node %s serves %v and node a %v", keyset, m.name, got, kids)
		}
		reply, err := m.client("issuer").SignJWT(c.t.Context(), api.SignJWTRequest{KeySet: keyset, Claims: []byte(`{}`)})
		if err != nil {
			return fmt.Errorf("node %s: %w", m.name, err)
		}
		if !slices.Contains(kids, reply.KID) {
			return fmt.Errorf("node %s signs with %s", m.name, reply.KID)
		}
	}
	return nil
}

// kids returns the sorted kids that a node serves of a key set, or none.
func (m *member) kids(keyset string) []string {
	m.t.Helper()
	status, body := m.get(m.endpoints.Public + "/issuers/" + keyset + "/jwks.json")
	return kidsOf(status, []byte(body))
}

// end stops everything, and holds all that was received against all that was
// served and entered.
func (c *cluster) end() {
	c.t.Helper()
	for _, crowd := range c.crowds {
		crowd.stop()
	}
	time.Sleep(fastCaches) // what caches hold of the last tokens
	c.judge.stop()
	list, err := c.nodes[0].client("operator").KeySets(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	tokens := 0
	for _, crowd := range c.crowds {
		replies := crowd.replies()
		tokens += len(replies)
		c.judge.wantAccepted(replies)
		c.judge.wantInWindow(list.KeySets, replies)
	}
	c.wantNoOrphans()
	var dirs []string
	for _, m := range c.nodes {
		m.stop()
		m.proven()
		dirs = append(dirs, m.dir)
	}
	wantByTheRules(c.t, dirs...)
	for i, crowd := range c.crowds {
		c.nodes[i].wantRecorded(crowd.replies())
	}
	c.t.Attr("promises", "I3 I4")
	c.t.Attr("seen", fmt.Sprintf("%d tokens, none that a verifier could reject or that is not entered", tokens))
}

// left reports whether a finding is what a kill may leave of a key that was being
// made: all of it or half, which is entered, and which no version names.
func left(f api.Mismatch) bool {
	return (f.Kind == string(rotation.KeyOrphan) || f.Kind == string(rotation.KeyHalfPair)) && f.Version == 0 && f.Entry != ""
}

// explained reports whether a finding is what a kill left of a key that the killed
// node was making, as its log says: it had begun to, and nobody had it made.
func (c *cluster) explained(f api.Mismatch) bool {
	if c.killed == nil || !left(f) {
		return false
	}
	of := func(m *member, outcome keystore.Outcome) bool {
		return len(m.logged(audit.Filter{Action: keystore.ActKeyGenerate, ID: f.KeyID, Outcome: outcome})) > 0
	}
	made := slices.ContainsFunc(c.nodes, func(m *member) bool { return of(m, keystore.OutcomeDone) })
	return of(c.killed, keystore.OutcomeIntent) && !made
}

// wantNoOrphans compares catalog and token at every node: both have the same keys,
// but for what a kill explains.
func (c *cluster) wantNoOrphans() {
	c.t.Helper()
	for _, m := range c.nodes {
		operator := m.client("operator")
		m.within(20*time.Second, "node "+m.name+" compares catalog and token", func() error {
			found, err := operator.Reconcile(c.t.Context(), "")
			if err != nil {
				return err
			}
			for _, f := range found.Findings {
				if !c.explained(f) {
					return fmt.Errorf("%+v", f) // a key that is being made is no orphan, and soon a version's
				}
			}
			return nil
		})
	}
}
