package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
)

func (a *app) auditShowCommand() *cobra.Command {
	var keys []string
	var log string
	c := &cobra.Command{
		Use:   "show ENTRY|INDEX|ID|JTI|SERIAL [LOGDIR]",
		Short: "Show one entry whole, and how it is proven",
		Long: "Show one entry whole: every member with what it means, the other entries of its\n" +
			"transition, token or certificate, and the checkpoint that it is proven under. The entry\n" +
			"is named ORIGIN#INDEX, as a reply or the list has it, or by an index in --log, or by the\n" +
			"id, jti or serial number of what it is about. It exits with 1 if it does not fit the\n" +
			"log's tree; `chancery audit verify` checks the whole log.",
		Example: "  chancery --dir dev audit show lifecycle#0\n  chancery --dir dev audit show --json NC2NjldZsQmRu3KG8o19fA",
		Args:    wordAndLogDir("ENTRY"),
	}
	c.SetFlagErrorFunc(belowZero)
	addLogKey(c, &keys)
	c.Flags().StringVar(&log, "log", "lifecycle", "the log of an INDEX: lifecycle or acts/YYYY-MM")
	c.RunE = does(func(ctx context.Context, args []string) error {
		dir, err := a.logDir(args[1:])
		if err != nil {
			return err
		}
		vkeys, err := a.logKeys(ctx, keys)
		if err != nil {
			return err
		}
		if err := isLogName(dir, log); err != nil {
			return err
		}
		all, err := find(ctx, dir, args[0], log)
		if err != nil {
			return err
		}
		at := mainOf(all)
		others, err := related(ctx, dir, at)
		if err != nil {
			return err
		}
		state, err := proofOf(ctx, dir, at, vkeys)
		if err != nil {
			return err
		}
		if a.json {
			err = a.printShownJSON(at, others, state)
		} else {
			err = a.printShown(at, others, state)
		}
		if err == nil && state.Problem != "" {
			return errFound
		}
		return err
	})
	return c
}

func addLogKey(c *cobra.Command, keys *[]string) {
	c.Flags().StringArrayVar(keys, "key", nil, "log key (signed-note verifier key), or @FILE or FILE with them (default: DIR/audit.vkey)")
}

// A proofState tells how an entry is proven.
type proofState struct {
	Origin   string   `json:"origin,omitempty"` // of the checkpoint
	Size     int64    `json:"size,omitempty"`
	Root     string   `json:"root,omitempty"`
	SignedBy []string `json:"signed_by"`         // NAME+ID of the log's keys that signed it
	Others   []string `json:"others,omitempty"`  // NAME+ID of who else did, unverified
	Waits    bool     `json:"waits,omitempty"`   // no checkpoint covers it yet
	Problem  string   `json:"problem,omitempty"` // it does not fit the tree
}

// proofOf proves an entry from what is on disk. That it does not fit is told in
// the state.
func proofOf(ctx context.Context, dir string, at audit.Located, vkeys []string) (proofState, error) {
	verifiers, err := verifiersOf(vkeys)
	if err != nil {
		return proofState{}, err
	}
	state := proofState{SignedBy: []string{}}
	p, err := audit.Prove(ctx, dir, at.Log(), at.Entry.Sequence)
	if err == nil {
		var proven audit.Proven
		if proven, err = audit.Check(p, at.Entry.Append(nil), verifiers, nil); err == nil {
			c := proven.Checkpoint
			state.Origin, state.Size, state.Root = c.Origin, c.Size, c.Root.String()
			state.SignedBy, state.Others = append(state.SignedBy, proven.Signed...), proven.Others
			return state, nil
		}
	}
	if ctx.Err() != nil {
		return proofState{}, context.Cause(ctx)
	}
	if state.Waits = errors.Is(err, audit.ErrNotCovered); !state.Waits {
		state.Problem = err.Error()
	}
	return state, nil
}

// sentence tells the state to people.
func (s *proofState) sentence() string {
	switch {
	case s.Problem != "":
		return "not proven: " + s.Problem
	case s.Waits:
		return "not proven yet: the next checkpoint, within seconds while the daemon runs, covers it"
	}
	under := fmt.Sprintf("under the checkpoint of %d entries of %s, root %s", s.Size, s.Origin, s.Root)
	if len(s.SignedBy) == 0 {
		return fmt.Sprintf("consistent, log key unverified: %s, which claims to be by %s", under, listed(s.Others))
	}
	return fmt.Sprintf("proven: %s, signed by %s", under, listed(s.SignedBy))
}

func listed(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	text := names[0]
	for _, n := range names[1:] {
		text += ", " + n
	}
	return text
}

// A shownEntry is an entry and its name, as JSON has them.
type shownEntry struct {
	Name  string          `json:"name"`
	Entry json.RawMessage `json:"entry"` // as it stands in the log
}

func shownAs(at audit.Located) shownEntry {
	return shownEntry{at.Name(), at.Entry.Append(nil)}
}

func (a *app) printShownJSON(at audit.Located, others []audit.Located, state proofState) error {
	out := struct {
		shownEntry
		Proof   proofState   `json:"proof"`
		Related []shownEntry `json:"related"`
	}{shownAs(at), state, []shownEntry{}}
	for _, o := range others {
		out.Related = append(out.Related, shownAs(o))
	}
	return json.NewEncoder(a.out).Encode(out)
}

func (a *app) printShown(at audit.Located, others []audit.Located, state proofState) error {
	g, err := audit.ReadGlossary()
	if err != nil {
		return err
	}
	a.printf("%s\n", at.Name())
	rows, err := memberRows(&at.Entry, g)
	if err != nil {
		return err
	}
	a.printWrapped([]string{"member", "value", "what it is"}, rows, map[int]int{2: 48, 3: 60})
	a.printf("%s: %s\n", string(at.Entry.Action), g.Actions[at.Entry.Action].Meaning)
	a.printf("%s: %s\n", string(at.Entry.Outcome), g.Outcomes[at.Entry.Outcome])
	a.printf("%s\n", state.sentence())
	if len(others) == 0 {
		return nil
	}
	a.printf("of the same transition, token or certificate:\n")
	var table [][]string
	for _, o := range others {
		table = append(table, entryRow(o))
	}
	a.printTable(entryHeading(), table)
	return nil
}

// memberRows tells every member of an entry in its order.
func memberRows(e *audit.Entry, g *audit.Glossary) ([][]string, error) {
	var rows [][]string
	members, err := membersOf(e)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.name == "detail" {
			for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
				rows = append(rows, []string{"detail." + name, e.Detail[name], g.Actions[e.Action].Detail[name]})
			}
			continue
		}
		rows = append(rows, []string{m.name, readable(m.name, m.text), g.Members[m.name]})
	}
	return rows, nil
}

// readable adds to a Unix time what people read.
func readable(name, text string) string {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || name != "exp" && name != "not_after" {
		return text
	}
	return text + " (" + when(time.Unix(seconds, 0)) + " UTC)"
}

// A member is one of an entry's, with its value as text.
type member struct{ name, text string }

// membersOf returns the members of an entry that are there, in their order.
func membersOf(e *audit.Entry) ([]member, error) {
	var members []member
	err := eachMember(e.Append(nil), func(name string, value json.RawMessage) error {
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = string(value) // a number, or detail
		}
		members = append(members, member{name, text})
		return nil
	})
	return members, err
}
