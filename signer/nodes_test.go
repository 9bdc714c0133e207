package signer

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

func TestNodesAreTold(t *testing.T) {
	told := func(who policy.Caller) string {
		list, err := newWorld(t).NodeList(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, n := range list.Nodes {
			words = append(words, fmt.Sprint(n.Name, " ", n.State, n.WaitedFor))
		}
		return strings.Join(words, ", ")
	}
	// An operator who rotates web alone is told of web alone.
	if got, want := told(operator), "a live[], b live[web version 3], c late[web version 3], d gone[], e forgotten[], f stopped[]"; got != want {
		t.Errorf("an operator is told %s, want %s", got, want)
	}
	if got := told(auditor); !strings.Contains(got, "b live[edge version 2 web version 3]") {
		t.Errorf("an auditor is told %s", got)
	}
	list, err := newWorld(t).NodeList(t.Context(), operator)
	if err != nil {
		t.Fatal(err)
	}
	if n := list.Nodes[0]; !n.Self || n.Epoch != 3 || n.Revision != 7 || n.SignsUntil == nil || n.StoppedAt != nil || n.Forgotten != nil {
		t.Errorf("a: %+v", n)
	}
	if e, f := list.Nodes[4], list.Nodes[5]; e.Self || e.Forgotten == nil || e.Forgotten.By != "olga" || f.StoppedAt == nil {
		t.Errorf("e: %+v, f: %+v", e, f)
	}
}

func TestNodesAreRefused(t *testing.T) {
	for _, who := range []policy.Caller{issuer, client, nobody} {
		w := newWorld(t)
		_, err := w.NodeList(t.Context(), who)
		wants(t, who.String(), err, api.CodeForbidden)
	}
	w := newWorld(t)
	w.nodes.err = fmt.Errorf("reading: %w", keystore.ErrUnavailable) // of the catalog, and no keystore's
	_, err := w.NodeList(t.Context(), operator)
	wants(t, "no catalog", err, api.CodeLeaseExpired)
}

// A node that is alone holds the catalog and has no leases.
func TestANodeWithoutLeasesIsLive(t *testing.T) {
	w := newWorld(t)
	w.nodes.fleet.Nodes = []keystore.Node{{Name: "a", EnrolledAt: noon, SeenAt: noon}}
	list, err := w.NodeList(t.Context(), operator)
	if err != nil || list.Nodes[0].State != api.NodeLive || list.Nodes[0].SignsUntil != nil || list.Nodes[0].PublishesUntil != nil {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestForgetANode(t *testing.T) {
	why := api.ForgetRequest{Reason: "its disk is gone"}
	for _, c := range []struct {
		what string
		who  policy.Caller
		node string
		req  api.ForgetRequest
		set  func(w *world)
		code api.Code // empty: done
		says string
	}{
		{"one that is gone", operator, "d", why, nil, "", ""},
		{"one that signs no more", operator, "c", why, nil, "", ""},
		{"one that stopped", operator, "f", why, nil, "", ""},
		{"a live one", operator, "b", why, nil, api.CodeConflict, "live: it may sign until 2026-03-01T12:01:00Z"},
		{"a live one that is meant", operator, "b", api.ForgetRequest{Reason: "r", Force: true}, nil, "", ""},
		{"itself", operator, "a", api.ForgetRequest{Reason: "r", Force: true}, nil, api.CodeConflict, "does not forget itself"},
		{"a forgotten one", operator, "e", api.ForgetRequest{Reason: "r", Force: true}, nil, api.CodeConflict, "forgotten by olga"},
		{"one there is not", operator, "z", why, nil, api.CodeNotFound, "no node"},
		{"no reason", operator, "d", api.ForgetRequest{}, nil, api.CodeMalformed, "reason"},
		{"a long reason", operator, "d", api.ForgetRequest{Reason: strings.Repeat("x", MaxReason+1)}, nil, api.CodeMalformed, "reason"},
		{"an auditor", auditor, "d", why, nil, api.CodeForbidden, ""},
		{"an issuer", issuer, "d", why, nil, api.CodeForbidden, ""},
		{"the log is down", operator, "d", why, func(w *world) { w.log.health = errors.New("disk full") }, api.CodeAuditUnavailable, ""},
		{"the catalog is down", operator, "d", why, func(w *world) { w.nodes.err = errors.New("disk full") }, api.CodeLeaseExpired, ""},
		{"none recorded", operator, "z", why, func(w *world) {
			w.nodes.fleet.Nodes = nil
		}, "", ""},
	} {
		w := newWorld(t)
		if c.set != nil {
			c.set(w)
		}
		reply, err := w.ForgetNode(t.Context(), c.who, c.node, c.req)
		if c.code == "" {
			want := fmt.Sprintf("%s by %s at 12:00:00: %s", c.node, operator, c.req.Reason)
			if err != nil || len(w.nodes.forgotten) != 1 || w.nodes.forgotten[0] != want || reply.Name != c.node {
				t.Errorf("%s: %+v, %v, forgotten %q", c.what, reply, err, w.nodes.forgotten)
			}
			continue
		}
		e := wants(t, c.what, err, c.code)
		if !strings.Contains(e.Detail, c.says) {
			t.Errorf("%s: %q says nothing of %q", c.what, e.Detail, c.says)
		}
		if len(w.nodes.forgotten) != 0 || len(w.log.refused) != 1 || w.log.refused[0].Action != keystore.ActNodeForget || w.log.refused[0].Detail["node"] != c.node {
			t.Errorf("%s: forgotten %q, refusals %+v", c.what, w.nodes.forgotten, w.log.refused)
		}
	}
}
