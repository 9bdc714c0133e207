package main

import (
	"slices"
	"strconv"

	"chancery/keystore/audit"
)

// printUses tells in a line what the numbers of the keys' uses come to.
func (a *app) printUses(r *audit.Report) {
	if len(r.Uses) == 0 {
		return
	}
	var uses, open, unknown int64
	for _, u := range r.Uses {
		uses += u.Last - u.First + 1
		open += u.Open
		unknown += u.Unknown
	}
	a.printf("uses of %s: %d numbered, %d not entered yet, %d of unknown outcome\n", count(int64(len(r.Uses)), "key", "keys"), uses, open, unknown)
}

// printPeers tells how far the other nodes' logs had come.
func (a *app) printPeers(r *audit.Report) {
	if len(r.Peers) == 0 {
		return
	}
	var rows [][]string
	for _, p := range r.Peers {
		compared := p.Compared
		if compared == "" {
			compared = "no (hint: --peer LOGDIR)"
		}
		rows = append(rows, []string{p.Origin, strconv.FormatInt(p.Size, 10), when(p.Time), "lifecycle#" + strconv.FormatInt(p.Index, 10), compared})
	}
	a.printTable([]string{"log of another node", "entries", "seen (UTC)", "entry", "compared with"}, rows)
	if slices.ContainsFunc(r.Peers, func(p audit.PeerReport) bool { return p.Compared != "" }) {
		a.printf("what is compared with is not verified itself: verify each log by its own key\n")
	}
}
