// Package simulation has the engine of rotation, rotation.Plan and what applies
// its steps, decide in a world that is made up, and looks for a way in which a
// rule is broken.
//
// The world is one key set in a catalog, one to three nodes, a token, and the
// verifiers out there:
//
//	catalog ── compare-and-swap, a clock of its own, lost answers, a failover that loses what came last
//	   │
//	nodes ──── wall clock and boot time; leases; what they have proven, serve, have acknowledged;
//	   │       down, stopped, cut off; crashes between any two durable acts
//	   │
//	caches ─── every cache that complies, at once: each set from when it is served until A later
//	   │
//	verifiers  six that differ: Age ignored, no fetch at an unknown kid, discovery read once, …
//
// Operators rotate, suspend, resume, forget nodes and change the configuration.
// Clocks are off by as much as S allows, or step by more and are found out.
//
// What is demanded: a token that lives is taken by whoever complies, whatever set
// it holds; what no verifier sees, such as that one version is active and that
// states move forward, is looked at after each commit. The story of a violation
// has no more events than it needs.
//
// What is not in the world: the log, and compromise, which overrides rule 2. The
// replica of the catalog may lack a commit of a step or an acknowledgement, and
// horizons, and has every promise, suspension, enrolment and certificate, and each
// step that a token has been signed by: a database that tells of those before its
// replica has them is not safe to fail over.
//
//	report, err := simulation.Simulate(ctx, simulation.Config{Schedule: schedule}, seed, 1e6, nil)
//	if report.Violation != nil {
//		fmt.Println(strings.Join(report.Story, "\n"))
//	}
package simulation
