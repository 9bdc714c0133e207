package main

import (
	"encoding/json"
	"net/http"
	"time"

	"chancery/signer/api"
)

// handleNodes adds what a fake tells of what lies ahead, of what was done, and of
// its nodes.
func (f *fake) handleNodes(handle func(pattern, role string, do func(*http.Request) (int, any, error))) {
	handle("GET /v1/keysets/{name}/plan", "", f.plan)
	handle("GET /v1/keysets/{name}/history", "", f.history)
	handle("GET /v1/ops/nodes", "", f.nodes)
	handle("POST /v1/ops/nodes/{name}/forget", roleOperator, f.forget)
}

func (f *fake) plan(r *http.Request) (int, any, error) {
	now := time.Now().UTC().Truncate(time.Second)
	in := func(m time.Duration) time.Time { return now.Add(m * time.Minute) }
	plan := api.Plan{
		Held: "activate version 3: rule 1: a cache may hold a set without it",
		Steps: []api.PlanStep{
			{At: in(5), Version: 3, Step: "activate", Rule: 1, HeldBy: "rule 1: a cache may hold a set without it"},
			{At: in(5), Version: 2, Step: "retire", Rule: 4, HeldBy: "rule 4: one version signs at a time"},
			{At: in(6), Version: 4, Step: "generate", HeldBy: "the schedule"},
			{At: in(6), Version: 4, Step: "publish", HeldBy: "the schedule"},
			{At: *f.versions[0].RetiresAt, Version: 1, Step: "remove", Rule: 2, HeldBy: "rule 2: tokens it signed are valid"},
		},
		Waits: []api.Wait{
			{Step: "remove", Version: 1, At: f.versions[0].RetiresAt, RetryAfter: 600, Rule: 2, Text: "rule 2: tokens it signed are valid", Since: f.versions[0].SignsUntil},
			{Step: "activate", Version: 3, At: ptr(in(5)), RetryAfter: 300, Rule: 1, Text: "rule 1: a cache may hold a set without it", Since: f.versions[2].PublishedAt},
		},
	}
	switch f.mode {
	case "asked":
		plan.Asked = &api.Asked{At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), By: "dev:spiffe:spiffe://chancery.dev/operator", Reason: "quarterly"}
	case "alone":
		plan.Waits[1].At, plan.Waits[1].RetryAfter, plan.Waits[1].Nodes = nil, 0, []string{"b", "c"}
		plan.Waits[1].Text = "rule 1: node b has not said that it serves version 3"
		plan.Waits = plan.Waits[1:]
	case "settled":
		plan = api.Plan{Steps: []api.PlanStep{}, Held: "nothing to do: the key set rotates on request only", Waits: []api.Wait{}}
	}
	return 200, plan, f.known(r)
}

// history tells two steps of March 2026, or none.
func (f *fake) history(r *http.Request) (int, any, error) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	events := []api.Event{
		{At: at, Event: "create", By: "chancery", Entry: "localhost/audit/dev/lifecycle#1"},
		{At: at, Version: 1, Event: "generate", By: "chancery", Reason: "first version", Entry: "localhost/audit/dev/lifecycle#2"},
		{At: at.Add(time.Hour), Version: 2, Event: "generate (outcome unknown)", By: "dev:spiffe:spiffe://chancery.dev/operator", Reason: "a laptop with a client certificate was lost on a train", Entry: "localhost/audit/dev/lifecycle#1234"},
	}
	if since, err := time.Parse(time.RFC3339, r.URL.Query().Get("since")); err == nil && since.After(at) {
		events = events[2:]
		if since.After(at.Add(time.Hour)) {
			events = events[:0]
		}
	}
	switch f.mode {
	case "untouched":
		events = events[:0]
	case "two logs":
		events[0].Entry = "localhost/audit/other/lifecycle#7"
	}
	return 200, api.History{Events: events}, f.known(r)
}

// nodes are three, of which one has not been seen for a while, or none.
func (f *fake) nodes(*http.Request) (int, any, error) {
	now := time.Now().UTC().Truncate(time.Second)
	seen := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	node := func(name, state string) api.Node {
		return api.Node{
			Name: name, State: state, Epoch: 4, EnrolledAt: seen, SeenAt: seen, Revision: 118,
			SignsUntil: ptr(now.Add(58*time.Second + time.Second/2)), PublishesUntil: ptr(now.Add(24 * time.Hour)), WaitedFor: []string{},
		}
	}
	a, b, c := node("a", api.NodeLive), node("b", api.NodeLate), node("c", api.NodeForgotten)
	a.Self, a.SignsUntil, a.PublishesUntil = true, nil, nil
	b.SignsUntil, b.WaitedFor = ptr(seen), []string{"web version 3", "legacy version 2"}
	c.SignsUntil, c.PublishesUntil = ptr(seen), ptr(seen)
	c.Forgotten = &api.Asked{At: seen, By: "dev:spiffe:spiffe://chancery.dev/operator", Reason: "its disk \x1b[2Jis gone"}
	if f.mode == "one node" {
		return 200, api.NodeList{Nodes: []api.Node{}}, nil
	}
	return 200, api.NodeList{Nodes: []api.Node{a, b, c}}, nil
}

// forget forgets b, and a only by force.
func (f *fake) forget(r *http.Request) (int, any, error) {
	var req api.ForgetRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return 0, nil, err
	}
	until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	switch name := r.PathValue("name"); {
	case f.mode == "one node":
		return 0, nil, api.Errorf(api.CodeConflict, "this catalog has one node")
	case name == "a" && !req.Force:
		return 0, nil, api.Errorf(api.CodeConflict, "node a is live: it may sign until 12:00:00 (hint: stop it first)")
	case name == "a":
		until = time.Now().UTC().Add(time.Hour + time.Second/2)
	case name != "b":
		return 0, nil, api.Errorf(api.CodeNotFound, "no node of that name")
	}
	return 200, api.ForgetReply{Name: r.PathValue("name"), ServedUntil: &until, Entry: "localhost/audit/dev/lifecycle#15 " + req.Reason}, nil
}
