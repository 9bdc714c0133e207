package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/keystore"
)

// A peerNote is what was last entered of another node's log.
type peerNote struct {
	head Head
	at   time.Time
}

const (
	peersEvery = 10 * time.Minute
	idlePeers  = time.Hour
)

// lookAtPeers enters how far the lifecycle logs of the other nodes have come, so
// that a log which is cut or rewritten contradicts what stands in others.
func (l *Log) lookAtPeers(ctx context.Context, now time.Time) {
	if l.cfg.Peers == nil || now.Sub(l.peersAt) < l.cfg.PeersEvery {
		return
	}
	l.peersAt = now
	look, cancel := context.WithTimeout(ctx, memoryPatience)
	defer cancel()
	heads, err := l.cfg.Peers(look)
	if err != nil {
		l.say(&l.unseen, err, "the logs of the other nodes")
		return
	}
	maps.DeleteFunc(heads, func(origin string, _ Head) bool {
		return origin == l.lifecycle.current().origin || !strings.HasSuffix(origin, "/"+lifecycleName)
	})
	var back error
	for _, origin := range slices.Sorted(maps.Keys(heads)) {
		head, before := heads[origin], l.peers[origin]
		if head.Size < before.head.Size {
			back = fmt.Errorf("%s had %d entries and is said to have %d", origin, before.head.Size, head.Size)
		}
		if !before.due(head, now, len(heads)+1) {
			continue
		}
		if _, err := l.Lifecycle(ctx, headRecord(keystore.ActAuditPeer, Checkpoint{origin, head.Size, head.Root})); err != nil {
			return // Health tells why
		}
		l.peers[origin] = peerNote{head, now}
	}
	l.say(&l.unseen, back, "the logs of the other nodes")
}

// due reports whether the head of a log, which n was last entered of, is worth
// an entry now. Each entry of one node makes the next one for all others, so
// that nodes which do nothing else would write to each other for ever: growth
// that this exchange alone explains, which is one entry for each of the nodes,
// waits an hour, and then makes one entry again. A size that is smaller is no
// news of the log: it is the catalog that went back, and the log contradicts
// what is entered already, should it be so.
func (n peerNote) due(head Head, now time.Time, nodes int) bool {
	grown := head.Size - n.head.Size
	switch {
	case grown < 0:
		return false
	case grown == 0:
		return head.Root != n.head.Root
	case n.head.Size == 0 || grown > int64(nodes):
		return true
	}
	return now.Sub(n.at) >= idlePeers
}
