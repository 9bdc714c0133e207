package simulation

import "testing"

// TestEveryRuleIsMissed switches off each rule, and each part of one, and wants it
// found.
func TestEveryRuleIsMissed(t *testing.T) {
	for _, m := range []struct {
		rule int
		name string
		off  switched
	}{
		{1, "the window is not waited for", offWindow},
		{2, "a version is not kept for what it signed", offRetention},
		{2, "horizons count though a failover may lose them", offLostHorizons},
		{3, "lowering A counts at once", offPromises},
		{4, "a node signs by any snapshot it has", offSigningLease},
		{5, "activation waits for the last acknowledgement only", offNodes},
		{5, "a node serves any snapshot it has", offPublishingLease},
		{6, "a suspension does not hold an activation", offSuspension},
		{6, "a suspended version signs", offStopped},
		{7, "an operator's rotation asks nobody", offGates},
		{8, "a key does not have to be there and to be served", offProof},
		{8, "the plan is not asked again in the swap", offAskAgain},
		{8, "a key is made before its row is recorded", offRowFirst},
		{9, "time by any clock is real time", offRealTime},
		{9, "nbf is iat", offNotBefore},
		{9, "a node signs and steps are taken by any clock", offClockGuard},
		{10, "a CA key is kept like a token's", offIssued},
		{11, "any algorithm may follow", offListed},
	} {
		t.Run(m.name, func(t *testing.T) {
			cfg := fast
			cfg.without = m.off
			if m.rule == 10 {
				cfg = authority(cfg)
			}
			if m.off == offRealTime { // what it prevents is rare on several nodes, which compare their clocks
				cfg.Nodes = 1
			}
			r, err := Simulate(t.Context(), cfg, 1, 3_000_000, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.Violation == nil {
				t.Fatalf("rule %d is off and nothing is violated in %d events", m.rule, r.Events)
			}
			t.Logf("found after %d events, and by %d at the least: %v", r.Events, len(r.Actions), r.Violation)
		})
	}
}
