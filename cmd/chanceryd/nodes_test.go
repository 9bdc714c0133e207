package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/api"
)

func TestNodesOfACatalog(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	by := keystore.Fact{At: noon, By: "olga", Reason: "its disk is gone"}
	var unread error
	n := &nodes{
		self: "a",
		read: func(context.Context) (*keystore.View, error) {
			view := keystore.NewView(1, noon.Add(time.Minute), nil)
			return view.WithNodes(noon, []keystore.Node{{Name: "a"}, {Name: "b"}, {Name: "c", Forgotten: &by, PublishesUntil: noon}}), unread
		},
		awaited: func(*keystore.View) []rotation.Awaited {
			return []rotation.Awaited{{Node: "b", KeySet: "web", Version: 3}}
		},
	}
	fleet, err := n.List(t.Context())
	if err != nil || fleet.Self != "a" || len(fleet.Nodes) != 2 || !fleet.Clock.Equal(noon) || len(fleet.Awaited) != 1 || fleet.Awaited[0].KeySet != "web" {
		t.Errorf("%+v, %v", fleet, err)
	}
	_, err = n.Forget(t.Context(), "b", by)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeConflict || e.Detail != "this catalog has one node" {
		t.Errorf("a catalog of one node: %v", err)
	}

	fails := error(nil)
	n.forget = func(_ context.Context, name string, _ keystore.Fact) (keystore.Node, string, error) {
		return keystore.Node{Name: name, PublishesUntil: noon.Add(time.Hour)}, "log#7", fails
	}
	reply, err := n.Forget(t.Context(), "b", by)
	if err != nil || reply.Name != "b" || reply.Entry != "log#7" || reply.ServedUntil == nil || !reply.ServedUntil.Equal(noon.Add(time.Hour)) {
		t.Errorf("%+v, %v", reply, err)
	}
	fails = fmt.Errorf("b: %w", keystore.ErrNotFound)
	if _, err := n.Forget(t.Context(), "b", by); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("gone meanwhile: %v", err)
	}
	fails, unread = fmt.Errorf("b: %w", keystore.ErrOvertaken), errors.New("disk full")
	_, err = n.Forget(t.Context(), "b", by)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.CodeConflict || e.RetryAfter != 1 {
		t.Errorf("overtaken: %v", err)
	}
	if _, err := n.List(t.Context()); !errors.Is(err, unread) {
		t.Errorf("a catalog that is down: %v", err)
	}
}

// Seconds that are left are rounded up, and nothing is left of what is due.
func TestWaitsOnTheWire(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Time
		left int64
	}{{now.Add(2*time.Second + 1), 3}, {now.Add(2 * time.Second), 2}, {now, 0}, {now.Add(-time.Hour), 0}, {time.Time{}, 0}} {
		w := waitOf(rotation.Why{Step: rotation.Step{Kind: rotation.Activate, Version: 3}, At: c.at, Rule: 1, Text: "rule 1: x"}, now)
		if w.RetryAfter != c.left || (w.At == nil) != c.at.IsZero() || w.Step != "activate" || w.Version != 3 || w.Since != nil {
			t.Errorf("at %v: %+v", c.at, w)
		}
	}
}

// A step that this node had entered for another, whose log was slow, was told twice
// by its history; one of its own that another had entered for it was not told.
func TestAStepEnteredForAnotherNodeIsToldOnce(t *testing.T) {
	step := func(id string, outcome keystore.Outcome, entry string) rotation.Entered {
		return rotation.Entered{Record: keystore.Record{ID: id, Outcome: outcome}, Entry: entry}
	}
	ours := []rotation.Entered{step("1", keystore.OutcomeDone, "b#1"), step("2", keystore.OutcomeIntent, "b#2")}
	all := []rotation.Entered{step("1", keystore.OutcomeDone, "b#1"), step("2", keystore.OutcomeDone, "a#7"), step("3", keystore.OutcomeDone, "a#8")}
	left := without(all, ours)
	if len(left) != 2 || left[0].Entry != "a#7" || left[1].Entry != "a#8" {
		t.Errorf("%+v", left)
	}
}
