package signer

import (
	"context"
	"fmt"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
)

// fakeNodes are a, which answers, and others in every state; b and c are waited for.
type fakeNodes struct {
	fleet     Fleet
	err       error
	forgotten []string
}

func newNodes() *fakeNodes {
	node := func(name string, signs, publishes time.Duration) keystore.Node {
		return keystore.Node{
			Name: name, Epoch: 3, EnrolledAt: noon.Add(-time.Hour), SeenAt: noon, Revision: 7,
			SignsUntil: noon.Add(signs), PublishesUntil: noon.Add(publishes),
		}
	}
	f := &fakeNodes{fleet: Fleet{Self: "a", Clock: noon, Nodes: []keystore.Node{
		node("a", time.Minute, time.Hour), node("b", time.Minute, time.Hour), node("c", -1, time.Hour), node("d", -2, -1),
		node("e", time.Minute, time.Hour), node("f", time.Minute, time.Hour),
	}}}
	f.fleet.Nodes[4].Forgotten = &keystore.Fact{At: noon, By: "olga", Reason: "its disk is gone"}
	f.fleet.Nodes[5].StoppedAt = noon.Add(-time.Second)
	f.fleet.Awaited = []Awaited{{"b", "edge", 2}, {"b", "web", 3}, {"c", "web", 3}}
	return f
}

func (f *fakeNodes) List(context.Context) (Fleet, error) { return f.fleet, f.err }

func (f *fakeNodes) Forget(_ context.Context, name string, by keystore.Fact) (api.ForgetReply, error) {
	if f.err != nil {
		return api.ForgetReply{}, f.err
	}
	f.forgotten = append(f.forgotten, fmt.Sprintf("%s by %s at %s: %s", name, by.By, by.At.Format(time.TimeOnly), by.Reason))
	return api.ForgetReply{Name: name, Entry: "log#4"}, nil
}
