package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/rotation"
	"chancery/signer"
	"chancery/signer/api"
)

// countWithin bounds how long what a compromised key signed is counted, while an
// operator waits for the answer.
const countWithin = 3 * time.Second

func (r *rotations) Compromise(ctx context.Context, by string, scope signer.Scope, reason string) (api.CompromiseReply, error) {
	all, err := r.rotator.Compromise(ctx, rotation.Compromising{
		By: by, Reason: reason, KeySet: scope.KeySet, KID: scope.KID, Keystore: scope.Keystore, Node: scope.Node,
	})
	reply := api.CompromiseReply{Compromised: []api.Compromised{}}
	switch {
	case scope.Node != "" && (err == nil || errors.Is(err, rotation.ErrNotForgotten)):
		reply.Node = &api.Forgotten{Name: scope.Node, Forgotten: err == nil}
		if err != nil {
			reply.Node.Error = err.Error()
		}
	case errors.Is(err, keystore.ErrNotFound) && scope.KeySet == "":
		return reply, api.Errorf(api.CodeNotFound, "there is no such token or node, or it has no key of a key set").Because(err)
	case errors.Is(err, keystore.ErrNotFound) && scope.KID == "":
		return reply, api.Errorf(api.CodeNotFound, "no version of the key set is active: name one by its kid").Because(err)
	case err != nil:
		return reply, wireError(err)
	}
	live := r.count(context.WithoutCancel(ctx), all)
	for i := range all {
		reply.Compromised = append(reply.Compromised, r.compromised(&all[i], live))
	}
	reply.Next = next(scope, all)
	return reply, nil
}

func (r *rotations) Gap(set *keystore.KeySet) (soonest time.Time, ok bool) {
	gap, ok := r.rotator.Gap(set)
	return gap.Soonest, ok
}

func (r *rotations) compromised(c *rotation.Compromise, live map[keystore.KID]lives) api.Compromised {
	out := api.Compromised{
		KeySet: c.KeySet, Purpose: string(c.Purpose), Version: c.Version, KID: string(c.KID),
		At: c.Fact.At.UTC(), By: c.Fact.By, Reason: c.Fact.Reason, StateBefore: c.Before.String(), Already: c.Already,
		CountedOn: r.node, ExpHorizon: timeOrNull(c.ExpHorizon),
		Exposure: api.Exposure{
			Caches: timeOrNull(c.Exposure.Caches), CutOff: timeOrNull(c.Exposure.CutOff), Signing: timeOrNull(c.Exposure.Signing),
		},
		Recorded: c.Recorded, Durable: c.Durable, Entry: c.Entry,
	}
	if live != nil {
		l := live[c.KID]
		out.LiveTokens, out.LiveUntil = &l.count, timeOrNull(l.until)
	}
	if c.Successor != (rotation.Ref{}) {
		out.Successor = &api.Successor{
			VersionRef: api.VersionRef{Version: c.Successor.Version, KID: string(c.Successor.KID)},
			SignsSince: c.SignsSince.UTC(), RejectedUntil: timeOrNull(c.RejectedUntil),
		}
	}
	if c.Gap != nil {
		out.Gap = &api.Gap{From: c.Gap.From.UTC(), Until: timeOrNull(c.Gap.Until), Held: c.Gap.Text}
	}
	return out
}

// lives is what a key signed that is not expired.
type lives struct {
	count int64
	until time.Time
}

// count counts the tokens, certificates and signatures of digests in this node's log that the keys have
// signed and that are not expired, or returns nil if that takes too long. What
// was entered and then not released is among them.
func (r *rotations) count(ctx context.Context, all []rotation.Compromise) map[keystore.KID]lives {
	ctx, cancel := context.WithTimeout(ctx, countWithin)
	defer cancel()
	now := r.now()
	filter := audit.Filter{Log: "acts", Outcome: keystore.OutcomeDone}
	live := make(map[keystore.KID]lives)
	for _, c := range all {
		live[c.KID] = lives{}
		since := now.Add(-c.Lifetime)
		if c.Lifetime == 0 || c.Purpose == keystore.PurposeDigest {
			since = time.Time{}
		}
		if len(live) == 1 || since.Before(filter.Since) {
			filter.Since = since
		}
	}
	if len(all) == 1 { // the others need not be read
		filter.KID = all[0].KID
	}
	for at, err := range audit.EntriesContext(ctx, r.logDir, filter) {
		if err != nil {
			return nil
		}
		e := &at.Entry
		l, ours := live[e.KID]
		exp := time.Unix(max(e.Exp, e.NotAfter), 0)
		endless := e.Action == keystore.ActSignDigest
		if !ours || e.KID == "" || !endless && !exp.After(now) {
			continue
		}
		l.count++
		if !endless && exp.After(l.until) {
			l.until = exp
		}
		live[e.KID] = l
	}
	return live
}

// next says what an operator does now.
func next(scope signer.Scope, all []rotation.Compromise) []string {
	var steps []string
	say := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(steps, s) {
			steps = append(steps, s)
		}
	}
	for _, c := range all {
		switch {
		case !c.Durable:
			say("do not restart the daemon: nothing could be written, and %s version %d would sign again; make room, then run the same again", c.KeySet, c.Version)
		case !c.Recorded:
			say("%s version %d is stopped here and not on record: other nodes, if there are any, sign with it and publish it still, so run the same there; make room, then run the same again here; a restart before that publishes it again", c.KeySet, c.Version)
		}
	}
	for _, c := range all {
		gap := c.Gap
		switch {
		case gap == nil || gap.Text == "":
		case c.Purpose == keystore.PurposeCA:
			say("%s signs nothing until you say so: give those who trust the authority its new ca.pem, then `chancery rotation now %s`", c.KeySet, c.KeySet)
		case gap.Until.IsZero():
			say("%s signs nothing: %s", c.KeySet, gap.Text)
		case c.Purpose == keystore.PurposeAudit:
			say("%s signs nothing until about %s: the log goes on, and no checkpoint proves its entries before then", c.KeySet, until(gap.Until))
		default:
			say("%s signs nothing until about %s; callers are told when to come back", c.KeySet, until(gap.Until))
		}
		if !c.RejectedUntil.IsZero() {
			say("%s: verifiers may reject the tokens of version %d until %s", c.KeySet, c.Successor.Version, until(c.RejectedUntil))
		}
	}
	advise(say, scope, all)
	return steps
}

// advise is the part of next that does not depend on how it went.
func advise(say func(string, ...any), scope signer.Scope, all []rotation.Compromise) {
	for _, c := range all {
		switch {
		case c.Purpose == keystore.PurposeAudit && c.Before != keystore.Published:
			say("checkpoints signed by %s version %d prove nothing after %s: rely on those that auditors had kept by then", c.KeySet, c.Version, moment(c.Fact.At))
		case c.Purpose == keystore.PurposeCA && !c.Exposure.Caches.IsZero():
			say("take the certificate of %s version %d from every trust store: those who hold it accept what is forged with it", c.KeySet, c.Version)
		case c.Purpose == keystore.PurposeDigest && c.KID != "":
			say("take the public key %s of %s version %d from wherever signatures are verified: those who hold it accept what is forged with it, however old it says it is", c.KID, c.KeySet, c.Version)
		case !c.Exposure.Caches.IsZero():
			say("restart verifiers that do not fetch the key set of %s again: they accept what is forged until then, the others until %s at the latest", c.KeySet, until(c.Exposure.Caches))
		}
	}
	switch {
	case scope.Keystore != "":
		say("change the PIN or login of keystore %s, or name another in the configuration and reload: until then new keys are made in it", scope.Keystore)
	case scope.Node != "":
		say("change the PIN or login of every keystore that node %s knew, and revoke the certificates that were on it", scope.Node)
	}
	for _, c := range all {
		if c.KID != "" && c.Before != keystore.Published {
			say("`chancery audit list --last 0 --kid %s` on each node lists all that %s version %d signed", c.KID, c.KeySet, c.Version)
		}
	}
}

// moment writes a time that was, and until one that is to come, to the second:
// what is said to be over is over.
func moment(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }

func until(t time.Time) string { return moment(t.Add(time.Second - time.Nanosecond)) }
