package signer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/policy"
)

// Nodes is what operators ask of the nodes of the catalog. Its errors are
// *api.Error where the caller is to know more than "internal error".
type Nodes interface {
	// List returns the nodes by the catalog as it is now. It fails when the catalog
	// cannot be read.
	List(ctx context.Context) (Fleet, error)
	// Forget fences a node, so that its writes are refused, and has nothing wait for
	// it beyond its publishing lease. It returns an error wrapping keystore.ErrNotFound
	// if there is no node of that name.
	Forget(ctx context.Context, name string, by keystore.Fact) (api.ForgetReply, error)
}

// A Fleet is the nodes of a catalog at one moment.
type Fleet struct {
	Self    string    // the node that tells it
	Clock   time.Time // the catalog's
	Nodes   []keystore.Node
	Awaited []Awaited
}

// Awaited is a version whose next step waits for a node.
type Awaited struct {
	Node    string
	KeySet  string
	Version int
}

// NodeList returns the nodes to who may manage them or reads the log. What waits
// for a node is told of the key sets whose rotation who may read.
func (s *Service) NodeList(ctx context.Context, who policy.Caller) (api.NodeList, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActRead}
	p := s.Policy()
	_, err := p.Authorize(who, policy.ManageNodes, policy.Target{})
	if err != nil {
		_, err = p.Authorize(who, policy.ReadAudit, policy.Target{})
	}
	if err != nil {
		return api.NodeList{}, s.refuse(act, err)
	}
	fleet, err := s.Nodes.List(ctx)
	if err != nil {
		return api.NodeList{}, s.refuse(act, ended(ctx, noCatalog(err)))
	}
	list := api.NodeList{Nodes: make([]api.Node, 0, len(fleet.Nodes))}
	for i := range fleet.Nodes {
		node := fleet.describe(&fleet.Nodes[i])
		for _, a := range fleet.Awaited {
			if _, err := p.Authorize(who, policy.ReadRotation, policy.Target{KeySet: a.KeySet}); err == nil && a.Node == node.Name {
				node.WaitedFor = append(node.WaitedFor, fmt.Sprintf("%s version %d", a.KeySet, a.Version))
			}
		}
		list.Nodes = append(list.Nodes, node)
	}
	return list, nil
}

func (f Fleet) describe(n *keystore.Node) api.Node {
	node := api.Node{
		Name: n.Name, Self: n.Name == f.Self, Epoch: n.Epoch, State: nodeState(n, f.Clock),
		EnrolledAt: n.EnrolledAt.UTC(), SeenAt: n.SeenAt.UTC(), Revision: n.Revision,
		SignsUntil: orNull(n.SignsUntil), PublishesUntil: orNull(n.PublishesUntil), StoppedAt: orNull(n.StoppedAt),
		WaitedFor: []string{},
	}
	if by := n.Forgotten; by != nil {
		node.Forgotten = &api.Asked{At: by.At.UTC(), By: by.By, Reason: by.Reason}
	}
	return node
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// nodeState is what has become of a node at a moment of the catalog's clock.
func nodeState(n *keystore.Node, now time.Time) string {
	switch {
	case n.Forgotten != nil:
		return api.NodeForgotten
	case !n.StoppedAt.IsZero():
		return api.NodeStopped
	case n.MaySign(now):
		return api.NodeLive
	case n.MayServe(now):
		return api.NodeLate
	}
	return api.NodeGone
}

// ForgetNode has a node forgotten that does not come back. It needs the log. A
// node that is live is not meant, unless req.Force: it is fenced then, and goes on
// signing and serving until its leases end, as it does not know.
func (s *Service) ForgetNode(ctx context.Context, who policy.Caller, name string, req api.ForgetRequest) (api.ForgetReply, error) {
	act := keystore.Record{Principal: who.String(), Action: keystore.ActNodeForget, Detail: map[string]string{"node": name}}
	grant, err := s.Policy().Authorize(who, policy.ManageNodes, policy.Target{})
	if err != nil {
		return api.ForgetReply{}, s.refuse(act, err)
	}
	act.Rule, act.Policy = grant.Rule(), grant.PolicyHash()
	if req.Reason == "" || len(req.Reason) > MaxReason {
		return api.ForgetReply{}, s.refuse(act, api.Errorf(api.CodeMalformed, `"reason" says why in 1 to %d bytes`, MaxReason))
	}
	if err := s.Log.Health(); err != nil {
		return api.ForgetReply{}, s.refuse(act, auditUnavailable(err))
	}
	fleet, err := s.Nodes.List(ctx)
	if err != nil {
		return api.ForgetReply{}, s.refuse(act, ended(ctx, noCatalog(err)))
	}
	if err := fleet.forgettable(name, req.Force); err != nil {
		return api.ForgetReply{}, s.refuse(act, ended(ctx, err))
	}
	reply, err := s.Nodes.Forget(ctx, name, keystore.Fact{At: s.Now(), By: who.String(), Reason: req.Reason})
	if errors.Is(err, keystore.ErrNotFound) {
		err = noSuchNode().Because(err)
	}
	if err != nil {
		return api.ForgetReply{}, s.refuse(act, ended(ctx, err))
	}
	return reply, nil
}

// forgettable returns why a node is not to be forgotten. Where none is recorded
// whoever keeps them says why.
func (f Fleet) forgettable(name string, force bool) error {
	i := slices.IndexFunc(f.Nodes, func(n keystore.Node) bool { return n.Name == name })
	switch {
	case len(f.Nodes) == 0:
		return nil
	case i < 0:
		return noSuchNode()
	case name == f.Self:
		return api.Errorf(api.CodeConflict, "node %s is the one that answers: a node does not forget itself (hint: stop it, and ask another node)", name)
	}
	n := &f.Nodes[i]
	switch state := nodeState(n, f.Clock); {
	case state == api.NodeForgotten:
		return api.Errorf(api.CodeConflict, "node %s was forgotten by %s at %s", name, n.Forgotten.By, n.Forgotten.At.UTC().Format(time.RFC3339))
	case state == api.NodeLive && !force:
		return api.Errorf(api.CodeConflict, "node %s is live: it may sign until %s (hint: stop it first; `--force` fences it: what it writes is refused from then on, and it signs and serves until its leases end)",
			name, untilWords(n.SignsUntil))
	}
	return nil
}

func untilWords(t time.Time) string {
	if t.IsZero() {
		return "it stops"
	}
	return t.UTC().Format(time.RFC3339)
}

func noSuchNode() *api.Error { return api.Errorf(api.CodeNotFound, "no node of that name") }

// noCatalog is err, or if it says nothing to a caller, that the catalog cannot be
// read.
func noCatalog(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	e := api.Errorf(api.CodeLeaseExpired, "the key catalog cannot be read").Because(err)
	e.RetryAfter = 1
	return e
}
