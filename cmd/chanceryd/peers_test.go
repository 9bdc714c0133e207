package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// Two nodes of one catalog enter how far the other one's lifecycle log has come, so
// that a log which is put back to an older state, with the catalog and all that its
// own machine remembers, is contradicted by the log of the other.
func TestTwoNodesVouchForEachOthersLogs(t *testing.T) {
	t.Parallel()
	c := startDatabase(t)
	for range 2 {
		c.join(nil, c.server.URL(clusterDatabase))
	}
	c.wantCalm(time.Now(), againWithin)
	a, b := c.nodes[0], c.nodes[1]
	a.stop()
	earlier := filepath.Join(t.TempDir(), "audit")
	copyModes(t, filepath.Join(a.dir, "audit"), earlier)
	a.restart() // looks at b
	c.rotateNow(a, "web", time.Minute)
	a.awaitSeen(b, 1)
	c.wantCalm(time.Now(), againWithin)
	a.stop()
	b.stop()
	length := len(a.logged(audit.Filter{Log: "lifecycle"}))
	b.restart() // looks at a
	b.awaitSeen(a, int64(length))
	b.stop()

	dirs := map[*member]string{a: filepath.Join(a.dir, "audit"), b: filepath.Join(b.dir, "audit")}
	for m, other := range map[*member]*member{a: b, b: a} {
		report := m.verifiedWith(dirs[m], dirs[other])
		if !report.OK() || len(report.Peers) != 1 || report.Peers[0].Compared != dirs[other] || !strings.HasSuffix(report.Peers[0].Origin, "/"+other.name+"/lifecycle") {
			t.Errorf("the log of node %s, beside that of %s: %+v", m.name, other.name, report)
		}
	}
	if report := a.verifiedWith(earlier); !report.OK() {
		t.Errorf("an older copy is whole in itself: %v", report.Problems)
	}
	if report := a.verifiedWith(earlier, dirs[b]); report.OK() || !strings.Contains(report.Problems[0].String(), "it was cut, or is an older copy than that log") {
		t.Errorf("an older copy of a's log, beside b's: %v", report.Problems)
	}
	if report := b.verifiedWith(dirs[b], earlier); report.OK() || !strings.Contains(report.Problems[0].String(), "it was cut, or that is an older copy than this log") {
		t.Errorf("b's log, beside an older copy of a's: %v", report.Problems)
	}
}

// awaitSeen waits until m's log tells of so many entries at least of other's.
func (m *member) awaitSeen(other *member, entries int64) {
	m.t.Helper()
	m.within(30*time.Second, "node "+m.name+" enters how far node "+other.name+" has come", func() error {
		for _, e := range m.logged(audit.Filter{Action: keystore.ActAuditPeer}) {
			if strings.HasSuffix(e.Detail["origin"], "/"+other.name+"/lifecycle") && indexOf(m.t, "#"+e.Detail["size"]) >= entries {
				return nil
			}
		}
		return errNotYet
	})
}

// verifiedWith verifies a copy of m's log beside those of other nodes.
func (m *member) verifiedWith(dir string, others ...string) *audit.Report {
	m.t.Helper()
	vkeys, err := os.ReadFile(filepath.Join(m.dir, "audit.vkey"))
	if err != nil {
		m.t.Fatal(err)
	}
	report, err := audit.Verify(m.t.Context(), dir, audit.Options{Keys: strings.Fields(string(vkeys)), Peers: others})
	if err != nil {
		m.t.Fatal(err)
	}
	return report
}
