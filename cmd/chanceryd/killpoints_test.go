package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/catalog"
	"chancery/signer/api"
)

// durably is the calls by which something is made durable, or a file is put in
// another's place.
const durably = "fsync,fdatasync,rename,renameat,renameat2"

// The windows of a rehearsal: shorter than those of dev --fast, for a rotation
// that is asked for to take no longer than it must.
const briefCache, briefSkew = 2 * time.Second, time.Second

// S01: kill -9 at every durable point of a whole rotation of every key set, from
// generation to removal: old state or new, nothing lost, and no token that
// someone could not verify.
func TestS01KilledAtEveryDurablePoint(t *testing.T) {
	t.Parallel()
	needStrace(t)
	const lanes = 2
	var rehearsals [lanes]*rehearsal // each has a directory
	for i := range rehearsals {
		rehearsals[i] = rehearse(t)
	}
	first := rehearsals[0]
	points := first.count(t, durably)
	every := points / soak(t, points/10, points, "durable points")
	var mu sync.Mutex // guards the next two
	reached, where := 0, make(map[string]int)
	var wg sync.WaitGroup
	for lane, r := range rehearsals { // not parallel subtests, which would wait until every other test has begun
		wg.Go(func() {
			for n := every * (lane + 1); n <= points && !t.Failed(); n += lanes * every {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					if call := r.killed(t, durably, n); call != "" {
						mu.Lock()
						defer mu.Unlock()
						reached++
						where[fileOf(call)]++
					}
				})
			}
		})
	}
	wg.Wait()
	t.Logf("killed at %d of %d durable points, of which %d were tried: %v", reached, points, points/every, where)
	if reached < points/every/2 {
		t.Error("most did not come that far: little was shown")
	}
}

// S01: the same between two writes to a file.
func TestS01KilledBetweenWrites(t *testing.T) {
	t.Parallel()
	needStrace(t)
	const writes = "pwrite64,ftruncate,unlink,unlinkat"
	r := rehearse(t)
	points := r.count(t, writes)
	parts := soak(t, 2, 60, "points")
	reached := 0
	for n := 1; n <= parts && !t.Failed(); n++ {
		at := n * points / (parts + 1)
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			if r.killed(t, writes, at) != "" {
				reached++
			}
		})
	}
	t.Logf("killed after %d of %d writes", reached, points)
	if reached < parts/2 {
		t.Error("most did not come that far: little was shown")
	}
}

// fileOf is the name of the file a line of strace -y is about, without what is
// different each time. A call that was interrupted in the output has only its
// own name left.
func fileOf(call string) string {
	name := call
	if _, path, quoted := strings.Cut(call, `"`); quoted { // a rename: to where is the last
		to := strings.Split(path, `"`)
		name = to[len(to)-2]
	} else if _, rest, ok := strings.Cut(call, "<"); ok {
		name, _, _ = strings.Cut(strings.TrimPrefix(rest, "... "), ">")
	}
	if strings.Contains(name, "/tile/") {
		return "tile"
	}
	return strings.TrimRight(filepath.Base(name), "0123456789")
}

// A rehearsal is the directory of a daemon that has published every successor
// long enough ago for it to sign, which is put back before each rotation.
type rehearsal struct {
	dir, kept string
	endpoints api.Endpoints
}

// rehearse makes one. Longer windows count until what they were promised for is
// over, so every key set is rotated once under the short ones.
func rehearse(t *testing.T) *rehearsal {
	d := startDev(t, tempDir(t), "--fast")
	d.keySets()
	d.stop()
	edit(t, d.configFile(), "rotate_every: 20s", "rotate_every: 1h", "max_age: 2s", "max_age: 1s", "cache_for: 4s", "cache_for: 2s", "_ttl: 10s", "_ttl: 3s")
	d = startDev(t, d.dir)
	old := new(onlooker)
	old.look(d)
	for _, keyset := range fastSets {
		if _, err := d.client("operator").Rotate(t.Context(), keyset, rotateFor("the short windows")); err != nil {
			t.Fatal(err)
		}
	}
	d.within(time.Minute, "what signed under the long windows is gone", func() error {
		if old.look(d); !old.gone() {
			return errNotYet
		}
		return nil
	})
	d.keySets()
	d.compared()
	time.Sleep(briefCache + briefSkew)
	d.stop()
	r := &rehearsal{dir: d.dir, kept: filepath.Join(tempDir(t), "kept"), endpoints: d.endpoints}
	copyTree(t, r.dir, r.kept)
	return r
}

// copyTree copies a directory with its modes, which the daemon looks at.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// restore puts the directory back as it was kept, at the path it was made for.
func (r *rehearsal) restore(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, r.kept, r.dir)
}

// count returns how many calls of a kind a whole rotation makes.
func (r *rehearsal) count(t *testing.T, calls string) int {
	t.Helper()
	n := len(r.perform(t, new(onlooker), calls, 0))
	t.Logf("a whole rotation of every key set: %d calls of %s", n, calls)
	return n
}

// killed performs a rotation, kills the daemon at the n-th call of a kind,
// starts it again and demands that all is well. It returns the call, empty if
// the rotation was over before it.
func (r *rehearsal) killed(t *testing.T, calls string, n int) string {
	w := new(onlooker)
	seen := r.perform(t, w, calls, n)
	call := ""
	if len(seen) >= n {
		call = seen[n-1]
	}
	before := states(t, r.dir)
	d := r.again(t)
	w.look(d)
	w.signed = time.Time{}
	w.sign(t, d, d.client("issuer"))
	d.wantSound()
	d.wantVerified(w.answers)
	left := d.wantNothingMissing()
	w.look(d)
	d.stop()
	d.wantAccounted()
	d.wantRecorded(w.answers)
	w.wantKnown(t)
	wantOnward(t, before, states(t, r.dir))
	t.Logf("%d tokens, %d key sets fetched, %d remains on the token; %s", len(w.answers), len(w.sets), left, call)
	return call
}

// wantNothingMissing compares catalog and token. What a kill may leave there is
// the key, or half of it, that was being made: SoftHSM writes one object after
// the other, and the daemon deletes nothing it cannot name. It returns how many
// of those there are.
func (d *chanceryd) wantNothingMissing() int {
	d.t.Helper()
	found, err := d.client("operator").Reconcile(d.t.Context(), "")
	if err != nil {
		d.t.Fatal(err)
	}
	if len(found.Keystores) != 1 || found.Keystores[0].Error != "" || len(found.Findings) > len(fastSets) {
		d.t.Errorf("compared: %+v", found)
	}
	for _, f := range found.Findings {
		if !left(f) {
			d.t.Errorf("found on the token: %+v", f)
		}
	}
	return len(found.Findings)
}

// perform rotates every key set once, with the daemon held at each call of a
// kind, until the keys that signed first are gone from what it publishes, or
// until it is killed at the n-th call; it is killed then, too. It returns the
// calls.
func (r *rehearsal) perform(t *testing.T, w *onlooker, calls string, n int) []string {
	t.Helper()
	r.restore(t)
	d, lines := launchTraced(t, r.dir, calls+":signal=STOP", "dev", "--dir", r.dir)
	d.endpoints = r.endpoints
	held := d.holdAt(lines, n)
	issuer, operator := d.client("issuer"), d.client("operator")
	granted := make(map[string]bool)
	for deadline := time.Now().Add(2 * time.Minute); !w.gone(); {
		if len(d.exited) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the rotation is not over within two minutes\n%s", d.log)
		}
		w.look(d)
		w.sign(t, d, issuer)
		for _, keyset := range fastSets {
			if !granted[keyset] && w.signedBy(keyset) { // a refusal would be one more entry
				_, err := operator.Rotate(t.Context(), keyset, api.OperateRequest{Reason: "to be interrupted", When: "now"})
				granted[keyset] = err == nil
			}
		}
		time.Sleep(40 * time.Millisecond)
	}
	d.kill()
	return held()
}

// holdAt lets the daemon, or the worker that made it, go on from each call at
// which strace has stopped it whole, and kills the daemon at the n-th. What it
// returns ends that and returns the calls.
//
// strace counts the calls of each thread by itself; there is no "n-th of the
// process" to tell it.
func (d *chanceryd) holdAt(lines <-chan string, n int) (calls func() []string) {
	end, all := make(chan struct{}), make(chan []string)
	go func() {
		var seen []string
		for {
			select {
			case line, more := <-lines:
				if !more { // the scenario ended before its time
					return
				}
				if seen = append(seen, line); len(seen) == n {
					d.cmd.Process.Kill()
					continue
				}
				thread := 0
				if fmt.Sscan(line, &thread); thread > 0 { // 0 is everybody here
					syscall.Kill(thread, syscall.SIGCONT) // a thread's number stands for its process; gone is gone
				}
			case <-time.After(300 * time.Millisecond): // a stop may come after the line that tells of it, and after this
				if len(seen) < n || n == 0 {
					d.goOn()
				}
			case <-end:
				all <- seen
				return
			}
		}
	}()
	return func() []string {
		close(end)
		return <-all
	}
}

// again starts the daemon that was killed. Within five seconds of being up it
// signs with every key set, by a key that it publishes.
func (r *rehearsal) again(t *testing.T) *chanceryd {
	t.Helper()
	began := time.Now()
	d := launch(t, r.dir, "dev", "--dir", r.dir)
	d.endpoints = r.endpoints
	d.within(60*time.Second, "it is up", func() error {
		resp, err := http.Get(d.endpoints.Admin + "/livez")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	up, issuer := time.Now(), d.client("issuer")
	for _, keyset := range fastSets {
		d.within(time.Until(up.Add(5*time.Second)), "it signs with a key that it publishes", func() error {
			reply, err := issuer.SignJWT(t.Context(), signAs(keyset))
			if err != nil {
				return err
			}
			kids, err := fetchKIDs(d.issuer(keyset))
			if err == nil && !slices.Contains(kids, reply.KID) {
				t.Errorf("%s is signed by %s and %q are published", keyset, reply.KID, kids)
			}
			return err
		})
	}
	t.Logf("up after %v, signing with all %v later", up.Sub(began).Round(time.Millisecond), time.Since(up).Round(time.Millisecond))
	d.awaitReady()
	return d
}

// states reads the state of every version from a copy of a catalog whose daemon
// has ended, and demands that no key set has two active ones.
func states(t *testing.T, dir string) map[string]keystore.State {
	t.Helper()
	copied := tempDir(t)
	for _, name := range []string{"catalog.db", "catalog.db-wal"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			copyTree(t, filepath.Join(dir, name), copied)
		}
	}
	c, err := catalog.Open(context.Background(), catalog.Config{Path: filepath.Join(copied, "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	view, err := c.View(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]keystore.State)
	for _, set := range view.KeySets() {
		active := 0
		for _, v := range set.Versions {
			all[fmt.Sprint(set.Name, " ", v.Number)] = v.State
			if v.State == keystore.Active {
				active++
			}
		}
		if active != 1 {
			t.Errorf("the catalog has %d active versions of %s", active, set.Name)
		}
	}
	return all
}

// wantOnward demands that every version is there still, and went no way back.
func wantOnward(t *testing.T, before, after map[string]keystore.State) {
	t.Helper()
	if len(before) < 5 {
		t.Errorf("%d versions at the kill", len(before))
	}
	for name, was := range before {
		if is := after[name]; is < was {
			t.Errorf("%s was %v at the kill and is %v", name, was, is)
		}
	}
}
