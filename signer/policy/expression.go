package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// Bounds of an expression.
const (
	maxExpression = 4096 // bytes
	// MaxCost is the most that an expression may cost: as it is estimated when the
	// policy is made, for claims of the usual sizes below, and at each evaluation,
	// whatever the claims are. The unit is CEL's: about one look at one value.
	MaxCost     = 20_000
	usualList   = 100 // elements
	usualString = 256 // bytes
	// maxMemory is what an evaluation may hold at once, in CEL's units, about bytes.
	maxMemory = 4 << 20
)

// A variable is what an expression may read, and which actions have it.
type variable struct {
	name string
	kind *cel.Type
	of   func(Action) bool // nil: every action
}

// variables returns everything an expression may read.
func variables() []variable {
	only := func(actions ...Action) func(Action) bool {
		return func(a Action) bool { return slices.Contains(actions, a) }
	}
	return []variable{
		{"action", cel.StringType, nil},
		{"principal.anchor", cel.StringType, nil},
		{"principal.kind", cel.StringType, nil},
		{"principal.value", cel.StringType, nil},
		{"unix.uid", cel.IntType, nil},
		{"unix.gid", cel.IntType, nil},
		{"keyset", cel.StringType, Action.OnKeySet},
		{"authority", cel.StringType, only(SignCSR)},
		{"profile", cel.StringType, only(SignCSR, SignJWT)},
		{"ttl", cel.IntType, only(SignJWT, SignCSR)},
		{"typ", cel.StringType, only(SignJWT)},
		{"claims", cel.MapType(cel.StringType, cel.DynType), only(SignJWT)},
		{"names", cel.ListType(cel.StringType), only(SignCSR)},
	}
}

// An expression is a condition of a rule, checked and bounded.
type expression struct {
	program cel.Program
	reads   map[string]bool // variables
	never   bool            // it is false whatever these are
}

// when checks the expression of r and keeps it.
func (b *builder) when(path string, r *rule) {
	if r.When == "" {
		return
	}
	faults := b.compile(r)
	for _, err := range faults {
		b.check(false, path, "%v", err)
	}
}

func (b *builder) compile(r *rule) []error {
	if len(r.When) > maxExpression {
		return []error{fmt.Errorf("the expression is longer than %d bytes", maxExpression)}
	}
	env, err := b.environment()
	if err != nil {
		return []error{err}
	}
	ast, issues := env.Compile(r.When)
	if issues.Err() != nil {
		return written(issues.Errors())
	}
	if ast.OutputType() != cel.BoolType {
		return []error{fmt.Errorf("the expression is of type %s, not bool", ast.OutputType())}
	}
	e := &expression{reads: map[string]bool{}}
	faults := e.read(ast, r.Actions)
	estimate, err := env.EstimateCost(ast, sizes{})
	switch {
	case err != nil:
		faults = append(faults, fmt.Errorf("the cost of the expression cannot be estimated: %w", err))
	case estimate.Max > MaxCost:
		faults = append(faults, fmt.Errorf("the expression is estimated to cost up to %d, more than %d (hint: a list within a list costs their product)", estimate.Max, MaxCost))
	}
	if len(faults) > 0 {
		return faults
	}
	e.program, err = env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(MaxCost), cel.MemoryLimit(maxMemory))
	if err != nil {
		return []error{err}
	}
	if e.never, err = isNever(env, ast); err != nil {
		return []error{err}
	}
	r.expr = e
	return nil
}

// environment returns what expressions are compiled in: CEL's standard library and
// the variables. It has no clock.
func (b *builder) environment() (*cel.Env, error) {
	if b.env != nil {
		return b.env, nil
	}
	options := []cel.EnvOption{
		cel.ParserRecursionLimit(64), cel.ParserExpressionSizeLimit(maxExpression), cel.ExpressionNodeLimit(2000),
		cel.DefaultUTCTimeZone(true),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	}
	for _, v := range variables() {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	env, err := cel.NewEnv(options...)
	b.env = env
	return env, err
}

// written returns what is wrong with an expression, each with where in it.
func written(issues []*cel.Error) []error {
	var all []error
	for _, i := range issues {
		all = append(all, fmt.Errorf("%s (line %d, column %d of the expression)", strings.ReplaceAll(i.Message, "\n", " "), i.Location.Line(), i.Location.Column()+1))
	}
	return all
}

// read notes which variables the expression reads, and returns what an action of
// the rule does not have.
func (e *expression) read(ast *cel.Ast, actions []Action) (faults []error) {
	used := map[string]bool{}
	for _, ref := range ast.NativeRep().ReferenceMap() {
		used[ref.Name] = true
	}
	for _, v := range variables() {
		if !used[v.name] {
			continue
		}
		e.reads[v.name] = true
		for _, a := range actions {
			if v.of != nil && !v.of(a) {
				faults = append(faults, fmt.Errorf("the expression reads %s, which %s does not have (hint: write a rule for that action alone)", v.name, a))
			}
		}
	}
	return faults
}

func (e *expression) readsUnix() bool { return e.reads["unix.uid"] || e.reads["unix.gid"] }

// sizes are what cost is estimated by where only a request says how large it is.
type sizes struct{}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	switch n.Type().Kind() {
	case types.ListKind, types.MapKind:
		return &cost.SizeEstimate{Max: usualList}
	case types.StringKind, types.BytesKind, types.DynKind:
		return &cost.SizeEstimate{Max: usualString}
	}
	return nil
}

// holds reports whether the expression is true. An error says why that cannot be
// known, which refuses the request.
func (e *expression) holds(who Principal, f facts, action Action, target Target, req Request) (bool, error) {
	if e.readsUnix() && f.unix == nil {
		return false, nil
	}
	vars := map[string]any{
		"action": string(action), "principal.anchor": who.Anchor, "principal.kind": string(who.Kind), "principal.value": who.Value,
		"keyset": target.KeySet, "authority": target.Authority, "profile": target.Profile,
	}
	if f.unix != nil {
		vars["unix.uid"], vars["unix.gid"] = int64(f.unix.UID), int64(f.unix.GID)
	}
	if err := e.requested(vars, req.filled(target.Profile)); err != nil {
		return false, err
	}
	out, _, err := e.program.Eval(vars)
	if err != nil {
		return false, err
	}
	is, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("the expression gave no bool")
	}
	return is, nil
}

// requested adds what the expression reads of the request.
func (e *expression) requested(vars map[string]any, req Request) (err error) {
	if e.reads["ttl"] {
		if req.TTL <= 0 {
			return errors.New("the lifetime is not known")
		}
		vars["ttl"] = req.TTL
	}
	if e.reads["typ"] {
		if req.Typ == "" {
			return errors.New("the type is not known")
		}
		vars["typ"] = req.Typ
	}
	if e.reads["claims"] {
		if vars["claims"], err = req.claims(); err != nil {
			return fmt.Errorf("reading the claims: %w", err)
		}
	}
	if e.reads["names"] {
		if req.Names == nil {
			return errors.New("the names are not known")
		}
		if vars["names"], err = req.Names(req.Body); err != nil {
			return fmt.Errorf("reading the names: %w", err)
		}
	}
	return nil
}
