package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Question is who would ask for what. Unlike a Caller it needs no certificate:
// its facts are taken at their word, so it is answered, never granted.
type Question struct {
	Who     Principal
	Unix    *Unix  // nil: not by a Unix socket
	PIN     string // SHA-256 of the certificate's public key, in hexadecimal; empty: none that a rule asks for
	Action  Action
	Target  Target
	Request Request

	// Judge is asked in place of the limits of the rule that decides, where more is
	// known that a request to sign has to keep: it returns why the request is refused,
	// or nil. It is absent where the rule's limits are all that is known.
	Judge func(Terms) *Objection
}

// An Objection is why a request is refused that a rule fits.
type Objection struct {
	Part string // what refuses: a member of the rule, or what is not the rule's, such as "profile"
	Code string // what the caller is answered
	Text string // the same in words
}

// An Explanation is what a policy says to a Question, and why.
type Explanation struct {
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule,omitempty"` // that decided; empty: none fits
	Code    string `json:"code,omitempty"` // what the caller is answered: "forbidden", or a Limit
	Text    string `json:"text,omitempty"` // the same in words
	// Profile is the claims profile that a JWT has under the rule that decided, also
	// where none was named.
	Profile string `json:"profile,omitempty"`

	Rules []RuleView `json:"rules"` // every rule, in the order of the configuration
}

// A RuleView is how a Question looks to one rule.
type RuleView struct {
	Rule    string `json:"rule"`
	Decides bool   `json:"decides,omitempty"`
	// Part is the member of the rule that does not fit or whose limit refuses;
	// "profile" or "keyset": what those ask for refuses; "order": an earlier rule
	// decided; empty: everything fits and is within the limits.
	Part string `json:"part,omitempty"`
	Text string `json:"text,omitempty"` // the same in words
}

// CodeForbidden is the Code of an Explanation where no rule fits.
const CodeForbidden = "forbidden"

// Explain returns what AuthorizeRequest and the limits of its grant say to q, and
// what every rule has to say of it. Only what the policy says is known, and what
// q.Judge does: a request that is allowed can still be refused for what it is or for
// what it names.
func (p *Policy) Explain(q Question) Explanation {
	x := Explanation{Code: CodeForbidden, Text: "no rule fits", Rules: []RuleView{}}
	decided := false
	for _, r := range p.all {
		view := RuleView{Rule: r.Name}
		q := q
		target, listed := r.profiled(q.Action, q.Target)
		if listed {
			q.Target = target
		}
		var err error
		switch view.Part, view.Text, err = r.misfit(q); {
		case err != nil && !decided:
			x.Text, x.Code = fmt.Sprintf("rule %s cannot be evaluated: %v", r.Name, err), codeOf(err)
			decided = true
		case view.Part != "":
		case decided:
			view.Part, view.Text = "order", "it fits, but an earlier rule decided"
		default:
			decided, view.Decides = true, true
			x.Rule, x.Allowed, x.Code, x.Text = r.Name, true, "", ""
			if q.Action == SignJWT {
				x.Profile = q.Target.Profile
			}
			if o := r.object(q); o != nil {
				x.Allowed, x.Text, x.Code = false, o.Text, o.Code
				view.Part, view.Text = o.Part, o.Text
			}
		}
		x.Rules = append(x.Rules, view)
	}
	return x
}

func codeOf(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return string(r.Limit)
	}
	return CodeForbidden
}

// Part returns the member of a rule that a refusal comes from.
func (r *Refusal) Part() string {
	switch r.Limit {
	case LimitTTL:
		return "max_ttl"
	case LimitType:
		return "types"
	case LimitAudience:
		return "audiences"
	case LimitScope:
		return "scopes"
	case LimitSize:
		return "max_claims, max_bytes"
	case LimitName:
		return "names, max_names"
	}
	return "claims"
}

// misfit returns the first member of r that does not fit q, and why; nothing if r
// fits. An error is why that cannot be known.
func (r *rule) misfit(q Question) (part, text string, err error) {
	f := facts{unix: q.Unix, pin: q.PIN}
	switch {
	case !slices.Contains(r.Principals, q.Who.String()):
		return "principals", fmt.Sprintf("%s is not among them", orNobody(q.Who)), nil
	case !slices.Contains(r.Actions, q.Action):
		return "actions", fmt.Sprintf("%s is not among them", q.Action), nil
	case !r.fits(q.Action, q.Target), !r.lists(q):
		part, name := r.untargeted(q)
		return part, fmt.Sprintf("%q is not among them", name), nil
	}
	if list := r.Require.misses(f); list != "" {
		return "require." + list, f.lacks(list), nil
	}
	if r.expr == nil {
		return "", "", nil
	}
	if r.expr.readsUnix() && f.unix == nil {
		return "when", "it reads unix, and the connection is not by a Unix socket", nil
	}
	ok, err := r.expr.holds(q.Who, f, q.Action, q.Target, q.Request)
	if err != nil {
		return "when", fmt.Sprintf("it cannot be evaluated, which refuses: %v", err), err
	}
	if !ok {
		return "when", "it is false", nil
	}
	return "", "", nil
}

// lists reports whether r lets a JWT have the profile that q names.
func (r *rule) lists(q Question) bool {
	_, ok := r.profiled(q.Action, q.Target)
	return ok
}

func orNobody(p Principal) string {
	if s := p.String(); s != "" {
		return s
	}
	return "nobody"
}

// untargeted returns the member of r that does not list what q is for, and what
// that is.
func (r *rule) untargeted(q Question) (part, name string) {
	switch {
	case q.Action != SignCSR && !names(r.KeySets, q.Target.KeySet):
		return "keysets", q.Target.KeySet
	case q.Action == SignCSR && !names(r.Authorities, q.Target.Authority):
		return "authorities", q.Target.Authority
	}
	return "profiles", q.Target.Profile
}

// object returns why q is refused though r fits it, or nil.
func (r *rule) object(q Question) *Objection {
	t := Terms{rule: r, action: q.Action, target: q.Target}
	own := t.Object(q)
	if q.Judge == nil || !q.Action.signs() {
		return own
	}
	o := q.Judge(t)
	if o != nil && own != nil && o.Code == own.Code {
		return own // the same, and tells what the caller is not told
	}
	return o
}

// Object returns why q, which the rule fits, is over the rule's limits, or nil.
func (t Terms) Object(q Question) *Objection {
	err := t.within(q)
	if err == nil {
		return nil
	}
	o := &Objection{Part: "claims", Code: codeOf(err), Text: err.Error()}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		o.Part = refusal.Part()
	}
	return o
}

// within returns nil if q is within the limits of the rule.
func (t Terms) within(q Question) error {
	q.Request = q.Request.filled(t.target.Profile)
	if most := int64(t.rule.MaxTTL / time.Second); q.Action.signs() && q.Request.TTL > most && most > 0 {
		return refuse(LimitTTL, "a ttl of %d s is over the limit of %d s", q.Request.TTL, most)
	}
	switch q.Action {
	case SignJWT:
		plain := t.target.Profile == ProfileJWT // another profile says itself what typ may be
		if typ := q.Request.Typ; plain && typ != "" && !t.AllowsType(typ) {
			return refuse(LimitType, "the type %q is not allowed", typ)
		}
		return t.withinClaims(q.Request)
	case SignCSR:
		return t.withinNames(q.Request)
	}
	return nil
}

func (t Terms) withinClaims(req Request) error {
	if req.Object == nil {
		return nil // nothing is known of them
	}
	check, err := t.CheckClaims(len(req.Body))
	if err != nil {
		return err
	}
	err = req.Object(req.Body, func(name, value []byte) error {
		if reserved(string(name)) {
			return refuse(LimitReserved, "the claim %s is the signer's own", quoted(name))
		}
		return check.Member(name, value)
	})
	if err != nil {
		return err
	}
	return check.Done()
}

func (t Terms) withinNames(req Request) error {
	if req.Names == nil {
		return nil
	}
	list, err := req.Names(req.Body)
	if err != nil {
		return err
	}
	if !t.AllowsCount(len(list)) {
		return refuse(LimitName, "%d names are more than %d", len(list), t.rule.MaxNames)
	}
	for _, name := range list {
		if !t.AllowsName(name) {
			return refuse(LimitName, "the name %s is not allowed", quoted([]byte(strings.ToValidUTF8(name, "?"))))
		}
	}
	return nil
}
