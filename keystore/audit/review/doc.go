// Package review draws from the entries of one or several nodes' logs what an
// auditor signs: the life of every key version with its timing rules checked
// against the entries, who did and approved what, counts of signatures and
// refusals, and every deviation.
//
// # Promises
//
// It reads entries and nothing else: no catalog, no token, no clock. The same
// entries give the same report, whatever the order in which entries of the same
// time come. Lifecycle entries are held in memory, since they are few; of acts
// only counts are, however many there are.
//
// It verifies no signature and no tree: audit.Verify does, and its reports are
// given to Make so that they stand beside what is drawn from the entries. What
// is drawn from a log that does not verify is worth as much as that log.
//
// # What is judged
//
// Times are those of the entries. An entry is written when the log takes it, up
// to Late after what it tells; one that had to wait longer says in its detail,
// as "at", since when it has been so. Rules are judged with that much leniency,
// so that a sound log has no deviation, and a deviation is never explained by
// the time that an entry took:
//
//	rotation/1   no signature by a version that is not active yet; activated no
//	             earlier than A + S after the last acknowledgement it waited for
//	rotation/2   removed no earlier than the highest exp it signed, plus S; no
//	             token longer than the L in force
//	rotation/4   one active version at a time; no signature later than one lease
//	             after its end
//	rotation/6   no signature by a suspended or compromised version
//	rotation/8   generated before published, proven before active
//	rotation/9   steps go forward; destroyed only when removed
//	rotation/10  an authority's version known until its last certificate expires
//
// A breach is what a rule does not allow, or what contradicts itself. Attention
// is what the log leaves open: intents without an outcome, unknown outcomes,
// what stands in the log of a node that was not given.
//
//	logs := []review.Log{review.Dir(ctx, "/var/lib/chancery/audit")}
//	report, err := review.Make(logs, review.Options{Since: begin, Until: end, Now: time.Now()})
//	for _, d := range report.Deviations { fmt.Println(d.Severity, d.Text, d.Entries) }
//	err = report.WriteHTML(file)
package review
