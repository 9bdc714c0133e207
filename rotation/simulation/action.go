package simulation

import (
	"fmt"
	"time"
)

// A Kind is what an action does. Its comment says what Who and Arg are; where it
// does not, Who is a node and Arg means nothing.
type Kind uint8

// The kinds of action.
const (
	Advance   Kind = iota + 1 // time passes: Arg nanoseconds
	Wake                      // time passes until the next step that Who plans
	Linger                    // time passes until the last moment of Who's signing lease
	Refresh                   // Who reads the catalog, renews its leases and serves what it read
	Prove                     // Who has the token show that it can sign with each version
	Ack                       // Who tells the catalog which versions it serves
	Sign                      // Who makes a token, of the shortest or (Arg 1) the longest lifetime
	Release                   // Who looks again and lets go of the token it has made
	Pass                      // Who takes the next step that is due; Arg 1: the commit's answer is lost
	Crash                     // Who's process ends; Arg 1: its machine starts anew as well
	Start                     // Who's process starts
	Pause                     // Who is stopped (SIGSTOP)
	Continue                  // and goes on
	Cut                       // Who and the catalog do not reach each other
	Join                      // they do again
	Leave                     // Who ends in order and says so
	StepNode                  // Who's wall clock steps by Arg
	StepStore                 // the catalog's clock steps by Arg
	StoreDown                 // the catalog's database is down
	StoreUp                   // and is back
	Failover                  // its replica takes over, without what came last
	TokenDown                 // the token does not answer
	TokenUp                   // and answers again
	LoseKey                   // the token loses its newest key
	Rotate                    // an operator asks Who for a rotation
	RotateNow                 // at once or not at all
	Suspend                   // an operator has Who suspend the active version
	Resume                    // and resume it
	Forget                    // an operator says that Who does not come back
	Configure                 // the configuration changes to the variant Arg, on Who at first
	Reload                    // Who takes up the configuration
	Fetch                     // verifier Who fetches the set, Arg says from where it tries first
	Verify                    // verifier Who is shown a live token of every version
	kinds
)

var kindNames = [kinds]string{
	Advance: "advance", Wake: "wake", Linger: "linger", Refresh: "refresh", Prove: "prove", Ack: "ack",
	Sign: "sign", Release: "release", Pass: "pass", Crash: "crash", Start: "start", Pause: "pause",
	Continue: "continue", Cut: "cut", Join: "join", Leave: "leave", StepNode: "step-node", StepStore: "step-store",
	StoreDown: "store-down", StoreUp: "store-up", Failover: "failover", TokenDown: "token-down", TokenUp: "token-up",
	LoseKey: "lose-key", Rotate: "rotate", RotateNow: "rotate-now", Suspend: "suspend", Resume: "resume",
	Forget: "forget", Configure: "configure", Reload: "reload", Fetch: "fetch", Verify: "verify",
}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// An Action is one thing that happens in a World. What cannot happen, such as
// that a node signs that is not up, happens as nothing.
type Action struct {
	Kind Kind
	Who  uint8
	Arg  int64
}

// String writes the action for people.
func (a Action) String() string {
	switch a.Kind {
	case Advance:
		return fmt.Sprintf("%s passes", time.Duration(a.Arg))
	case Fetch, Verify:
		return fmt.Sprintf("verifier %d: %s", a.Who, a.Kind)
	case StepStore, StoreDown, StoreUp, Failover, TokenDown, TokenUp, LoseKey:
		return a.Kind.String() + argument(a)
	}
	return fmt.Sprintf("node %s: %s%s", nodeNames[a.Who%maxNodes], a.Kind, argument(a))
}

// argument writes what an action has beside who, if anything.
func argument(a Action) string {
	switch {
	case a.Kind == StepNode || a.Kind == StepStore:
		return " " + time.Duration(a.Arg).String()
	case a.Arg != 0:
		return fmt.Sprintf(" %d", a.Arg)
	}
	return ""
}
