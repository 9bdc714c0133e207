package audit

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

// cluster returns the rigs of some nodes that share a memory, as they share a
// catalog, and a clock.
func cluster(t *testing.T, nodes ...string) (*clock, map[string]*rig) {
	c, mem, rigs := newClock(noon), newMemory(), map[string]*rig{}
	for _, name := range nodes {
		rigs[name] = newRig(t, func(cfg *Config) {
			cfg.Node, cfg.Now, cfg.Memory, cfg.Peers = name, c.Now, mem, mem.Recall
		})
	}
	return c, rigs
}

// seen returns the sizes that r's lifecycle tells of other nodes' logs, by node.
func (r *rig) seen() map[string][]string {
	r.Helper()
	all := map[string][]string{}
	for _, e := range r.all(Filter{Action: keystore.ActAuditPeer}) {
		name := strings.Split(e.Entry.Detail["origin"], "/")[2]
		all[name] = append(all[name], e.Entry.Detail["size"])
	}
	return all
}

func started() keystore.Record {
	return keystore.Record{Principal: self, Action: keystore.ActStart, Outcome: keystore.OutcomeDone}
}

func (r *rig) trusted() Options {
	v, err := VKeyFor(keyName(host, r.cfg.Node), r.key.alg, r.key.Public())
	if err != nil {
		r.Fatal(err)
	}
	return Options{Keys: []string{v}}
}

func TestPeersAreEntered(t *testing.T) {
	c, nodes := cluster(t, "a", "b")
	a, b := nodes["a"], nodes["b"]
	for range 3 {
		b.lifecycle(started())
	}
	b.act(1) // the memory has b's acts too, which are not its lifecycle
	b.monthBegan()
	if err := b.log.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := b.log.lifecycle.current().length()
	a.log.keepOnce(t.Context())
	a.log.keepOnce(t.Context())
	if got := a.seen(); len(got["b"]) != 1 || len(got) != 1 {
		t.Errorf("a has seen %v", got)
	}
	for range 5 {
		b.lifecycle(started())
	}
	a.log.keepOnce(t.Context()) // too early
	c.set(c.Now().Add(peersEvery))
	a.log.keepOnce(t.Context())
	if got := a.seen(); len(got["b"]) != 2 {
		t.Errorf("a has seen %v; b had %d entries, and 5 more", got, size)
	}
	a.crash()
	a.open() // and knows what it has entered
	a.log.keepOnce(t.Context())
	if got := a.seen(); len(got["b"]) != 2 {
		t.Errorf("a has seen %v", got)
	}
	a.close()
	b.close()
	rep, err := Verify(t.Context(), a.cfg.Dir, a.trusted())
	if err != nil || !rep.OK() || len(rep.Peers) != 1 || rep.Peers[0].Origin != "localhost:8443/audit/b/lifecycle" || rep.Peers[0].Size != size+5 || rep.Peers[0].Compared != "" {
		t.Errorf("%+v, %v", rep, err)
	}
}

// Nodes that do nothing but see each other do not write for ever: an hour of it
// makes one entry for each other node.
func TestIdleNodesDoNotChatter(t *testing.T) {
	c, nodes := cluster(t, "a", "b", "c")
	for _, r := range nodes {
		r.lifecycle(started())
	}
	day := func() (entries int) {
		for range 24 * 60 {
			c.set(c.Now().Add(time.Minute))
			for _, name := range slices.Sorted(maps.Keys(nodes)) {
				log := nodes[name].log
				log.keeping.Lock()
				log.lookAtPeers(t.Context(), c.Now())
				log.keeping.Unlock()
			}
		}
		for _, r := range nodes {
			for _, sizes := range r.seen() {
				entries += len(sizes)
			}
		}
		return entries
	}
	first := day()
	if more := day() - first; more > 24*6 {
		t.Errorf("%d entries in an idle day of three nodes, want at most one per hour and pair", more)
	}
}

func TestWhenAPeerIsDue(t *testing.T) {
	root := func(b byte) Head { return Head{Size: 10, Root: [32]byte{b}} }
	note := peerNote{root(1), noon}
	for _, c := range []struct {
		what string
		note peerNote
		head Head
		age  time.Duration
		want bool
	}{
		{"never seen", peerNote{}, root(1), 0, true},
		{"empty", peerNote{}, Head{}, 0, false},
		{"as it was", note, root(1), idlePeers, false},
		{"rewritten", note, root(2), 0, true},
		{"smaller", note, Head{Size: 9}, idlePeers, false},
		{"as many more as there are nodes", note, Head{Size: 13}, idlePeers - 1, false},
		{"the same an hour later", note, Head{Size: 13}, idlePeers, true},
		{"one more", note, Head{Size: 14}, 0, true},
	} {
		if got := c.note.due(c.head, noon.Add(c.age), 3); got != c.want {
			t.Errorf("%s: due is %v", c.what, got)
		}
	}
}

// A catalog that cannot be read, or that went back, makes no entry.
func TestPeersThatAreNotSeen(t *testing.T) {
	heads, failed := map[string]Head{"h/audit/b/lifecycle": {Size: 5}}, error(nil)
	c := newClock(noon)
	r := newRig(t, func(cfg *Config) {
		cfg.Now = c.Now
		cfg.Peers = func(context.Context) (map[string]Head, error) { return maps.Clone(heads), failed }
	})
	look := func(size int64, err error, entries int) {
		t.Helper()
		heads["h/audit/b/lifecycle"], failed = Head{Size: size}, err
		c.set(c.Now().Add(2 * idlePeers))
		r.log.keepOnce(t.Context())
		if got := r.seen()["b"]; len(got) != entries {
			t.Errorf("%d entries: %v", len(got), got)
		}
	}
	look(5, nil, 1)
	look(9, errors.New("the catalog cannot be read"), 1)
	look(4, nil, 1)
	if r.log.unseen == nil {
		t.Error("that it went back is not told")
	}
	look(9, nil, 2)
	r.close()
	r.sound()
}

// The memory of other nodes' logs keeps no log from opening.
func TestPeersInTheMemoryAreNotOurs(t *testing.T) {
	r := newRig(t)
	r.act(1)
	r.close()
	r.mem.heads["localhost:8443/audit/other/lifecycle"] = Head{Size: 7}
	r.mem.heads["localhost:8443/audit/dev2/acts/2026-11"] = Head{Size: 7}
	r.open()
}

// A log that was cut or rewritten contradicts what another node saw, whichever of
// the two is verified.
func TestPeersThatWereCutOrRewritten(t *testing.T) {
	const cutFrom, rewritten = "was cut", "not the ones"
	for what, c := range map[string]struct {
		entries int // of the log of b that is there instead
		want    string
	}{
		"untouched": {0, ""},
		"cut":       {2, cutFrom},
		"rewritten": {9, rewritten},
	} {
		t.Run(what, func(t *testing.T) {
			_, nodes := cluster(t, "a", "b")
			a, b := nodes["a"], nodes["b"]
			for range 6 {
				b.lifecycle(started())
			}
			a.log.keepOnce(t.Context())
			a.close()
			b.close()
			if c.entries > 0 {
				mem := newMemory()
				forged := newRig(t, func(cfg *Config) { cfg.Node, cfg.Memory = "b", mem })
				forged.key = b.key
				for range c.entries {
					rec := started()
					rec.Reason = "forged"
					forged.lifecycle(rec)
				}
				forged.close()
				b = forged
			}
			opt := a.trusted()
			opt.Peers = []string{b.cfg.Dir}
			rep, err := Verify(t.Context(), a.cfg.Dir, opt)
			if err != nil || len(rep.Peers) != 1 || rep.Peers[0].Compared != b.cfg.Dir {
				t.Fatalf("%+v, %v", rep, err)
			}
			note := a.all(Filter{Action: keystore.ActAuditPeer})[0]
			toldBy(t, rep, c.want, "lifecycle", note.Entry.Sequence)

			opt = b.trusted()
			opt.Peers = []string{a.cfg.Dir}
			if rep, err = Verify(t.Context(), b.cfg.Dir, opt); err != nil {
				t.Fatal(err)
			}
			toldBy(t, rep, c.want, "lifecycle", -1)
			if c.want != "" && !strings.Contains(rep.Problems[0].What, note.Name()) {
				t.Errorf("%q does not name %s", rep.Problems[0].What, note.Name())
			}
		})
	}
}

// toldBy fails the test unless rep has one problem, with text in it, or none
// where text is empty.
func toldBy(t *testing.T, rep *Report, text, log string, index int64) {
	t.Helper()
	switch {
	case text == "" && len(rep.Problems) > 0:
		t.Errorf("%v", rep.Problems)
	case text != "" && (len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].What, text) || rep.Problems[0].Log != log || rep.Problems[0].Index != index):
		t.Errorf("%q, want %q of %s %d", rep.Problems, text, log, index)
	}
}

// What the log says of one peer must not go back, whoever entered it.
func TestPeersThatGoBack(t *testing.T) {
	const b = "localhost:8443/audit/b/lifecycle"
	peer := func(size int64, root byte) keystore.Record {
		return headRecord(keystore.ActAuditPeer, Checkpoint{b, size, [32]byte{root}})
	}
	ours := peer(1, 1)
	ours.Detail["origin"] = keyName(host, node) + "/lifecycle"
	for what, c := range map[string]struct {
		recs []keystore.Record
		want string
		at   int64
	}{
		"growing":   {[]keystore.Record{peer(1, 1), peer(1, 1), peer(2, 2)}, "", 0},
		"smaller":   {[]keystore.Record{peer(3, 1), peer(2, 2)}, b + " went back to 2 entries: it had 3, as lifecycle entry 0 says", 1},
		"rewritten": {[]keystore.Record{peer(1, 1), peer(3, 1), peer(3, 2)}, b + " was rewritten: its 3 entries are others than those that lifecycle entry 1 tells of", 2},
		"our own":   {[]keystore.Record{ours}, "it does not tell how far the lifecycle log of another node had come", 0},
	} {
		r := newRig(t)
		for _, rec := range c.recs {
			r.lifecycle(rec)
		}
		r.close()
		t.Run(what, func(t *testing.T) { toldBy(t, r.verify(), c.want, "lifecycle", c.at) })
	}
}

func TestPeersThatAreNoLogs(t *testing.T) {
	r := newRig(t)
	r.act(1)
	r.close()
	empty := t.TempDir()
	broken := filepath.Join(t.TempDir(), "audit")
	if err := os.CopyFS(broken, os.DirFS(r.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(broken, "lifecycle", "journal-1"), []byte("no journal"))
	for _, dir := range []string{empty, filepath.Join(empty, "nowhere"), broken} {
		if _, err := Verify(t.Context(), r.cfg.Dir, Options{Peers: []string{dir}}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
