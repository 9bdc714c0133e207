package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
)

// quorum returns the witnesses that args name: a policy (C2SP tlog-policy), or
// keys, of which all are wanted. Each is a key itself, @FILE, or a file. With
// none it returns nil: no witness is known.
func (a *app) quorum(ctx context.Context, args []string) (audit.Quorum, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if path := strings.TrimPrefix(args[0], "@"); len(args) == 1 && exists(path) {
		text, err := readFile(ctx, path, largestPublished)
		if err != nil {
			return nil, witnessKeyKind().unreadable(err)
		}
		if err := witnessKeyKind().notPEM(path, string(text)); err != nil {
			return nil, err
		}
		if isPolicy(string(text)) {
			p, err := witness.ParsePolicy(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return p, nil
		}
	}
	for _, arg := range args {
		path := strings.TrimPrefix(arg, "@")
		if text, err := readFile(ctx, path, largestPublished); err == nil && isPolicy(string(text)) {
			return nil, hinted{
				usagef("%s is a policy, which stands alone: it names its witnesses, and the quorum", path),
				"make one policy of them all: their witness lines, a group of those, and one quorum",
			}
		}
	}
	vkeys, err := witnessKeyKind().from(ctx, args)
	if err != nil {
		return nil, err
	}
	var keys []audit.WitnessKey
	slices.Sort(vkeys)
	for _, vkey := range slices.Compact(vkeys) {
		k, err := audit.ParseWitnessKey(vkey)
		if err != nil {
			return nil, err // it was read
		}
		keys = append(keys, k)
	}
	return witness.AllOf(keys), nil
}

// isPolicy reports whether text is meant as a policy: keys are a word a line.
func isPolicy(text string) bool {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && !strings.HasPrefix(words[0], "#") {
			return true
		}
	}
	return false
}

// printWitnessed tells how far witnesses know the logs, and which they do not.
func (a *app) printWitnessed(r *audit.Report, given bool) {
	for i := range r.Logs {
		l := &r.Logs[i]
		if l.Witnessed == nil {
			continue
		}
		var by []string
		for _, c := range l.Witnessed.By {
			by = append(by, c.Key)
		}
		since := ""
		if n := l.Unwitnessed(); n > 0 {
			since = fmt.Sprintf("; %d since are unwitnessed", n)
		}
		a.printf("witnessed: %s: %s by %s UTC, by %s%s\n", l.Name, count(l.Witnessed.Size, "entry", "entries"), when(l.Witnessed.Time), strings.Join(by, ", "), since)
	}
	why := "no quorum of the witnesses has cosigned a checkpoint"
	if !given {
		why = "no witness is given"
	}
	if len(r.Unwitnessed) > 0 {
		a.printf("unwitnessed: %s: %s\n", strings.Join(r.Unwitnessed, ", "), why)
	}
}
