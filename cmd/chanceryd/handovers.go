package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// handOver is the step by which a former log key ceases to sign checkpoints beside
// the active one.
const handOver = "hand over"

// handovers returns what former log keys of a key set wait for until they sign no
// more. It answers at once, from what is known.
func (n *node) handovers(keyset string) []api.Wait {
	view, err := n.views.Current()
	if err != nil {
		return nil
	}
	set, ok := view.KeySet(keyset)
	if !ok || set.Purpose != keystore.PurposeAudit {
		return nil
	}
	active, ok := set.Active()
	if !ok {
		return nil
	}
	now := n.now()
	var waits []api.Wait
	for _, v := range formers(set, n.overlap.answered, now) {
		w := api.Wait{Step: handOver, Version: v.Number, Since: timeOrNull(v.StoppedAt)}
		if n.overlap.answered == nil {
			over := v.StoppedAt.Add(keystore.InForce(set.Promises, now).CacheFor)
			w.At, w.RetryAfter = timeOrNull(over), secondsUntil(over, now)
			w.Text = fmt.Sprintf("caches of the list of log keys to know version %d; both sign checkpoints until then", active.Number)
		} else {
			w.Text = fmt.Sprintf("%s to cosign what version %d signs alone; both sign checkpoints until then",
				witnessesNamed(n.unknowing(set, active.KID)), active.Number)
		}
		waits = append(waits, w)
	}
	return waits
}

func witnessesNamed(names []string) string {
	switch len(names) {
	case 0:
		return "the witnesses"
	case 1:
		return "witness " + names[0]
	}
	slices.Sort(names)
	return "witnesses " + strings.Join(names, ", ")
}

// handoverNote tells of a log key that still signs beside its successor because a
// witness does not know that one: somebody has to tell the witness.
func (n *node) handoverNote(keyset string) string {
	if n.overlap.answered == nil {
		return "" // it ends by itself
	}
	for _, w := range n.handovers(keyset) {
		return fmt.Sprintf("version %d waits for %s (hint: whoever runs a witness adds the log's new key to it)", w.Version, w.Text)
	}
	return ""
}

// secondsUntil returns how many seconds t is ahead of now, rounded up; 0: none.
func secondsUntil(t, now time.Time) int64 {
	if left := t.Sub(now); left > 0 && !t.IsZero() {
		return int64((left + time.Second - 1) / time.Second)
	}
	return 0
}
