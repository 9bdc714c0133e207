package load

import (
	"errors"
	"strings"
)

// Parts is the CPU time of the parts of one token, each measured by itself, in
// microseconds.
type Parts struct {
	Sign   float64 `json:"sign_us"`   // of a worker, for one signature
	Verify float64 `json:"verify_us"` // of one verification
	Log    float64 `json:"log_us"`    // of one durable entry, at that concurrency
	// Floor is of daemon and client together, for one request that is authenticated,
	// decoded, answered, and has nothing done.
	Floor float64 `json:"rpc_us"`
}

// ErrUnmeasured: a bound is asked for of which a part is not known.
var ErrUnmeasured = errors.New("a part of the bound is not measured")

// Cost is the CPU time of one token in microseconds: sign + verified × verify + log
// + RPC floor ÷ batch. verified is the share of the signatures that the daemon
// verifies; batch is how many tokens a request has.
func (p Parts) Cost(batch int, verified float64) (float64, error) {
	if p.Sign <= 0 || p.Log <= 0 || p.Floor <= 0 || p.Verify <= 0 && verified > 0 {
		return 0, ErrUnmeasured
	}
	return p.Sign + verified*p.Verify + p.Log + p.Floor/float64(max(1, batch)), nil
}

// Bound is how many tokens a second so many processors could make if they did
// nothing but the parts, all the time. What lies between, such as scheduling, the
// way to the workers, policy and claims, is not in it: no program reaches it.
func (p Parts) Bound(cores, batch int, verified float64) (float64, error) {
	cost, err := p.Cost(batch, verified)
	if err != nil {
		return 0, err
	}
	return float64(cores) * 1e6 / cost, nil
}

// Verified is the share of the signatures of an algorithm that a daemon verifies in
// a mode: "all", or "sampled", which is one of sixteen but for RSA.
func Verified(mode, algorithm string) (share float64, ok bool) {
	switch {
	case mode == "all", mode == "sampled" && (strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")):
		return 1, true
	case mode == "sampled":
		return 1.0 / 16, true
	}
	return 0, false
}
