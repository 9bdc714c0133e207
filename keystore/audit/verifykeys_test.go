package audit

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/keystore"
)

func TestOldestKeyVerifiesAfterAnyRotation(t *testing.T) {
	keys := []*softKey{eddsa(t), newSoftKey(t, keystore.ES256), eddsa(t), eddsa(t), newSoftKey(t, keystore.ES256)}
	c := newClock(october)
	k := newKeyRig(t, keys[0], func(cfg *Config) { cfg.Now = c.Now })
	for i, key := range keys[1:] {
		k.act(i)
		announced := k.announce(key)
		k.checkpoint()
		c.set(c.Now().AddDate(0, 0, 20)) // some months change between
		k.act(i)
		k.use(key)
		rep := k.soundBy(keys[0])
		last := rep.LogKeys[len(rep.LogKeys)-1]
		if last.Key != idOf(t, key) || last.Announced != announced.Entry || !strings.HasPrefix(last.By, handoverPrefix) || last.VKey != key.vkey(t) {
			t.Errorf("key %d: %+v, want it announced by %s", i+1, last, announced.Entry)
		}
		if l := rep.Logs[0]; l.Key != last.Key || l.Announced != announced.Entry || !l.Verified {
			t.Errorf("lifecycle rests on %+v", l)
		}
	}
	k.close()
	for i, key := range keys {
		if rep := k.soundBy(key); len(rep.LogKeys) < len(keys)-i {
			t.Errorf("key %d: %+v", i, rep.LogKeys)
		}
	}
}

func TestKeyThatComesBack(t *testing.T) {
	a, b := eddsa(t), eddsa(t)
	k := newKeyRig(t, a)
	k.announce(b)
	k.checkpoint()
	for range 3 {
		k.act(1)
		k.use(b)
		k.soundBy(a)
		k.soundBy(b)
		k.announce(b)
		k.use(a)
		k.soundBy(a)
		k.soundBy(b)
	}
}

// rebuild makes the log in a directory of its own from its entries, and those of
// more in lifecycle, all signed by key.
func (k *keyRig) rebuild(key *softKey, more ...keystore.Record) string {
	k.Helper()
	at := newClock(october)
	forged := newRig(k.TB, func(c *Config) {
		c.Keys = func(context.Context) (Keys, error) { return Keys{Active: key}, nil }
		c.Now = at.Now
	})
	for _, e := range k.all(Filter{Log: lifecycleName}) {
		at.set(e.Entry.Time)
		forged.lifecycle(e.Entry.Record)
	}
	for _, rec := range more {
		forged.lifecycle(rec)
	}
	forged.close()
	return forged.cfg.Dir
}

func TestRebuiltChain(t *testing.T) {
	old, next, thief := eddsa(t), eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.announce(next)
	k.checkpoint()
	k.lifecycle(keystore.Record{Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone, Reason: "the thief would rather not have it told"})
	k.use(next)
	k.soundBy(old)
	handover := handoverName(k.handovers()[0])

	t.Run("with a key that nobody announced", func(t *testing.T) {
		rep := verifyDir(t, k.rebuild(thief), old)
		if rep.KeyVerified || !tells(rep, idOf(t, thief)+", which is none of the keys given") {
			t.Errorf("%v", rep.Problems)
		}
	})
	t.Run("with a key that it announces itself", func(t *testing.T) {
		rep := verifyDir(t, k.rebuild(thief, announcing(t, thief)), old)
		if rep.KeyVerified || !tells(rep, idOf(t, thief)+", which entry 3 of lifecycle announces, and no key that is trusted signed that entry") {
			t.Errorf("%v", rep.Problems)
		}
	})
	t.Run("with the handover that was there", func(t *testing.T) {
		dir := k.rebuild(thief, announcing(t, thief))
		b, err := os.ReadFile(filepath.Join(k.cfg.Dir, lifecycleName, handover))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, lifecycleName, handover), b, 0o640); err != nil {
			t.Fatal(err)
		}
		// Its first entries are the true ones, which the old key did sign.
		rep := verifyDir(t, dir, old)
		if rep.KeyVerified || !tells(rep, idOf(t, thief)+", which entry 3 of lifecycle announces") || len(rep.LogKeys) != 2 {
			t.Errorf("%v, keys %v", rep.Problems, rep.LogKeys)
		}
	})
	t.Run("with a handover of another tree", func(t *testing.T) {
		dir := k.rebuild(thief, announcing(t, thief))
		forged := signedBy(t, Checkpoint{Origin: keyName(host, node) + "/lifecycle", Size: 4}, old)
		if err := os.WriteFile(filepath.Join(dir, lifecycleName, handoverName(4)), forged, 0o640); err != nil {
			t.Fatal(err)
		}
		if rep := verifyDir(t, dir, old); rep.KeyVerified || !tells(rep, "handover-4: its first 4 entries are not the ones that were signed") {
			t.Errorf("%v", rep.Problems)
		}
	})
}

func tells(rep *Report, text string) bool {
	return slices.ContainsFunc(rep.Problems, func(p Problem) bool { return strings.Contains(p.String(), text) })
}

// What the old key did not sign it did not announce.
func TestAnnouncementBehindTheLastCheckpoint(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.announce(next)
	k.use(next)
	if rep := k.verifyBy(old); rep.KeyVerified || len(rep.LogKeys) != 1 || !tells(rep, "which entry 1 of lifecycle announces, and no key that is trusted signed that entry") {
		t.Errorf("%v, keys %v", rep.Problems, rep.LogKeys)
	}
	k.soundBy(next)
	// An overlap mends it.
	k.use(next, old)
	k.soundBy(old)
	k.use(next)
	k.soundBy(old)
}

func TestHandoverThatIsGoneOrChanged(t *testing.T) {
	tests := map[string]struct {
		change func(path string) error
		want   string
	}{
		"gone":        {os.Remove, "no key that is trusted signed that entry (hint: restore lifecycle/handover-"},
		"no note":     {func(path string) error { return os.WriteFile(path, []byte("no note\n"), 0o640) }, "handover-2: signed checkpoint: "},
		"another one": {func(path string) error { return os.Rename(path, strings.Replace(path, "-2", "-1", 1)) }, "handover-1 is of 2 entries"},
		"longer": {func(path string) error {
			return os.WriteFile(strings.Replace(path, "-2", "-9", 1), signedBy(t, Checkpoint{Origin: keyName(host, node) + "/lifecycle", Size: 9}, eddsa(t)), 0o640)
		}, "it has 2 entries, and handover-9 has 9"},
		"of another log": {func(path string) error {
			return os.WriteFile(path, signedBy(t, Checkpoint{Origin: keyName(host, "other") + "/lifecycle", Size: 2}, eddsa(t)), 0o640)
		}, "handover-2 is of localhost:8443/audit/other/lifecycle"},
		"signature changed": {func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			at := len(b) - 20
			b[at] = 'A' + (b[at]-'A'+1)%26
			return os.WriteFile(path, b, 0o640)
		}, "invalid signature"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			old, next := eddsa(t), eddsa(t)
			k := newKeyRig(t, old)
			k.announce(next)
			k.checkpoint()
			k.use(next)
			k.close()
			k.soundBy(old)
			path := filepath.Join(k.cfg.Dir, lifecycleName, handoverName(2))
			if err := test.change(path); err != nil {
				t.Fatal(err)
			}
			if rep := k.verifyBy(old); rep.OK() || !tells(rep, test.want) {
				t.Errorf("%v, want %q", rep.Problems, test.want)
			}
		})
	}
}

func TestAnnouncementThatFitsNoKey(t *testing.T) {
	key := eddsa(t)
	tests := map[string]func(*keystore.Record){
		"its kid is not that of its public key": func(r *keystore.Record) { r.KID = kid(t, eddsa(t)) },
		"its public key is not in base64":       func(r *keystore.Record) { r.Detail["public"] += "\n" },
		"its public key: ":                      func(r *keystore.Record) { r.Detail["public"] = "AAAA" },
		"log key: ":                             func(r *keystore.Record) { r.Detail["algorithm"] = "ES256" },
	}
	for want, change := range tests {
		k := newKeyRig(t, key)
		rec := announcing(t, eddsa(t))
		change(&rec)
		k.lifecycle(rec)
		k.checkpoint()
		if rep := k.verifyBy(key); len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].String(), "entry 1: it announces a log key, and ") || !tells(rep, want) {
			t.Errorf("%v, want %q", rep.Problems, want)
		}
	}
}

// A compromised key vouches for what was announced before, and for nothing since.
func TestCompromisedKeyAnnouncesNothingMore(t *testing.T) {
	old, next, thief := eddsa(t), eddsa(t), eddsa(t)
	k := newKeyRig(t, old)
	k.announce(next)
	says := k.compromise(old)
	k.announce(thief)
	k.checkpoint() // by the old key, after it was compromised
	rep := k.soundBy(old)
	if l := rep.Logs[0]; l.Compromised != says.Entry || rep.LogKeys[0].Compromised != says.Entry {
		t.Errorf("it is not told: %+v, %+v", l, rep.LogKeys)
	}
	if len(rep.LogKeys) != 2 || rep.LogKeys[1].Key != idOf(t, next) {
		t.Errorf("trusted: %+v", rep.LogKeys)
	}
	k.use(thief)
	if rep := k.verifyBy(old); rep.KeyVerified || !tells(rep, idOf(t, thief)+", which entry 3 of lifecycle announces") {
		t.Errorf("%v", rep.Problems)
	}
	k.use(next)
	k.act(1)
	k.checkpoint()
	rep = k.soundBy(old)
	for _, l := range rep.Logs {
		if l.Compromised != "" {
			t.Errorf("%s: %+v", l.Name, l)
		}
	}
}

// Of two signatures the one counts whose key was not compromised.
func TestOverlapWithACompromisedKey(t *testing.T) {
	old, next := eddsa(t), eddsa(t)
	for _, order := range [][]keystore.Key{{old, next}, {next, old}} {
		k := newKeyRig(t, old)
		k.announce(next)
		k.compromise(old)
		k.act(1)
		k.use(order[0], order[1])
		for _, l := range k.soundBy(old).Logs {
			if l.Key != idOf(t, next) || l.Compromised != "" {
				t.Errorf("%s rests on %+v", l.Name, l)
			}
		}
	}
}

// Verify needs no standstill: whoever knows only the first key finds every moment
// of the change sound.
func TestVerifyBesideALogWhoseKeysChange(t *testing.T) {
	first := eddsa(t)
	k := newKeyRig(t, first, func(c *Config) { c.Interval = time.Millisecond })
	k.act(0)
	k.checkpoint() // of a month that is just born the reader waits for one, and no key changes in that moment
	done, stop := make(chan error, 1), make(chan struct{})
	go func() {
		done <- func() error {
			former := first
			for n := 0; ; n++ {
				next := newSoftKey(t, []keystore.Algorithm{keystore.EdDSA, keystore.ES256}[n%2])
				if _, err := k.log.Lifecycle(t.Context(), announcing(t, next)); err != nil {
					return err
				}
				if err := k.log.Checkpoint(t.Context()); err != nil {
					return err
				}
				if n%3 == 0 {
					k.set(next, former)
					if err := k.log.Checkpoint(t.Context()); err != nil {
						return err
					}
				}
				k.set(next)
				if _, err := k.log.Act(t.Context(), signed(n)); err != nil {
					return err
				}
				former = next
				select {
				case <-stop:
					return nil
				default:
				}
			}
		}()
	}()
	k.waitForKeys(first, 20)
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	k.close()
	k.soundBy(first)
}

// waitForKeys verifies until n keys are trusted.
func (k *keyRig) waitForKeys(first *softKey, n int) {
	k.Helper()
	waitFor(k, fmt.Sprintf("%d keys are trusted", n), func() bool {
		rep := k.verifyBy(first)
		for _, p := range rep.Problems {
			k.Errorf("%v", p)
		}
		return len(rep.LogKeys) >= n
	})
}

func FuzzAnnouncement(f *testing.F) {
	rec := announcing(f, eddsa(f))
	f.Add(string(rec.KID), rec.Detail["algorithm"], rec.Detail["public"])
	rec = announcing(f, newSoftKey(f, keystore.ES256))
	f.Add(string(rec.KID), rec.Detail["algorithm"], rec.Detail["public"])
	f.Add("", "EdDSA", "AAAA\n")
	f.Fuzz(func(t *testing.T, kid, algorithm, public string) {
		e := Entry{Record: keystore.Record{KID: keystore.KID(kid), Detail: map[string]string{"algorithm": algorithm, "public": public}}}
		v, err := announced(&e, keyName(host, node))
		if err != nil {
			return
		}
		spki, err := keystore.MarshalPublic(v.pub)
		if err != nil {
			t.Fatal(err)
		}
		back := Announcement(keystore.PurposeAudit, &keystore.Version{Algorithm: v.alg, SPKI: spki})
		if back["algorithm"] != algorithm || back["public"] != public {
			t.Errorf("%q and %q come back as %v", algorithm, public, back)
		}
	})
}

func TestAnnouncementOfALongKeyFits(t *testing.T) {
	spki := make([]byte, 550) // of RSA-4096
	for i := range spki {
		spki[i] = byte(i)
	}
	detail := Announcement(keystore.PurposeJWT, &keystore.Version{Algorithm: keystore.RS512, SPKI: spki})
	e, err := ParseEntry(Entry{Schema: Schema, Time: noon, Record: keystore.Record{
		Action: keystore.ActKeyPublish, Outcome: keystore.OutcomeDone, Detail: detail,
	}}.Append(nil))
	if err != nil || !maps.Equal(e.Detail, detail) {
		t.Errorf("%v, %v; want %v", e.Detail, err, detail)
	}
}

// Whatever becomes of the log's keys: as long as each is announced under a
// checkpoint before it signs, whoever kept any of them verifies all of it.
func TestAnyKeyVerifiesWhateverBecomesOfThem(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first := eddsa(t)
		k := newKeyRig(t, first)
		defer k.close()
		k.act(1)
		k.monthBegan()
		k.checkpoint()
		keys, signing := []*softKey{first}, []keystore.Key{first}
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"rotate", "end the overlap", "come back", "entry", "restart"}).Draw(rt, "step") {
			case "rotate":
				next := newSoftKey(t, rapid.SampledFrom([]keystore.Algorithm{keystore.EdDSA, keystore.ES256}).Draw(rt, "algorithm"))
				k.announce(next)
				k.checkpoint()
				keys = append(keys, next)
				signing = append([]keystore.Key{next}, signing[:rapid.IntRange(0, len(signing)).Draw(rt, "former")]...)
			case "end the overlap":
				signing = signing[:1]
			case "come back":
				signing = []keystore.Key{rapid.SampledFrom(keys).Draw(rt, "key")}
			case "entry":
				k.act(1)
			case "restart":
				k.crash()
				k.open()
			}
			k.use(signing[0], signing[1:]...)
			if rep := k.verifyBy(rapid.SampledFrom(keys).Draw(rt, "kept")); !rep.OK() {
				rt.Fatalf("%v", rep.Problems)
			}
		}
	})
}
