package audit

import (
	"testing"

	"pgregory.net/rapid"

	"chancery/keystore"
)

// failing fails in rapid's place, so that it finds a smaller case.
type failing struct {
	testing.TB
	rt *rapid.T
}

func (f failing) Fatalf(format string, args ...any) { f.rt.Fatalf(format, args...) }

// However a log grows, closes months, packs and prunes them and changes its key,
// and wherever each review of it ended: the last one reports what one run does.
func TestReviewsThatAreResumedReportWhatOneDoes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newClock(october)
		first := eddsa(t)
		k := newKeyRig(t, first, func(cfg *Config) { cfg.Now, cfg.KeepActs = c.Now, 30*day })
		defer k.close()
		w := newReview(k.rig)
		w.opt.Keys = []string{first.vkey(t)}
		k.rig.TB = failing{t, rt}
		w.opt.keepEvery = rapid.Int64Range(1, 30).Draw(rt, "every")
		keyset, use := keystore.KID("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"), int64(0)
		sign := func() {
			n, err := k.log.Take(keyset)
			if err != nil {
				rt.Fatal(err)
			}
			use = n
			k.enterUse(used(keyset, use, keystore.OutcomeDone))
		}
		sign()
		k.monthBegan()
		k.checkpoint()
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"acts", "acts", "lifecycle", "checkpoint", "head", "month", "key", "tend", "prune", "review", "review", "restart"}).Draw(rt, "step") {
			case "acts":
				for range rapid.IntRange(1, 60).Draw(rt, "n") {
					sign()
				}
			case "lifecycle":
				k.lifecycle(keystore.Record{Action: keystore.ActStart, Outcome: keystore.OutcomeDone})
			case "checkpoint":
				k.checkpoint()
			case "head":
				c.set(c.Now().Add(2 * headEvery))
				k.log.keepOnce(t.Context())
			case "month":
				c.set(c.Now().AddDate(0, 1, 0))
				sign()
				k.checkpoint()
			case "key":
				next := eddsa(t)
				k.announce(next)
				k.checkpoint()
				k.use(next)
			case "tend":
				k.tend()
			case "prune":
				k.prunes(c)
			case "review":
				w.alike()
				if n := len(w.kept); n > 0 { // interrupted after any entry, or not at all
					w.state = w.kept[rapid.IntRange(0, n-1).Draw(rt, "kept")]
				}
			case "restart":
				k.close()
				k.open()
			}
		}
		k.checkpoint()
		w.alike()
	})
}
