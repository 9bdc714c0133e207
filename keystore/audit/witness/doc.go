// Package witness has the logs of package audit witnessed: others, who trust
// neither this host nor its operator, sign that they have seen each log grow and
// never change. Who shows an edited log afterwards has no such signatures on it.
//
// A Client asks one witness, over HTTP (C2SP tlog-witness). A Feeder shows every
// witness of a Policy (C2SP tlog-policy) the newest checkpoints of a node's logs
// and keeps those that enough of them have cosigned. A Server is a small witness
// that a second organisation, or an auditor's laptop, can run.
//
//	policy, err := witness.ParsePolicy(text)
//	f, err := witness.NewFeeder(witness.Config{Dir: dir, Policy: policy, State: state, Keep: log.KeepWitnessed})
//	f.Run(ctx)
//
// A witness promises that it cosigns no two trees of one log that contradict
// each other, whatever crashes; it promises nothing about what the entries say.
package witness
