package policy

import (
	"fmt"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
)

// Remarks returns what is no fault of the policy and hardly meant: rules that decide
// nothing, because an earlier one fits whatever they fit, or because their condition
// is false whatever is asked. It tells only what is certain.
func (p *Policy) Remarks() []*Fault {
	var remarks []*Fault
	for i, r := range p.all {
		path := fmt.Sprintf("rules[%d]", i)
		if r.expr != nil && r.expr.never {
			remarks = append(remarks, &Fault{Path: path + ".when", Text: "it is false whatever is asked: the rule decides nothing"})
			continue
		}
		before := slices.IndexFunc(p.all[:i], func(e *rule) bool { return e.covers(r) })
		if before >= 0 {
			remarks = append(remarks, &Fault{Path: path, Text: fmt.Sprintf(
				"no request reaches it: rule %s before it fits whatever it fits (hint: put it before that one, or remove it)", p.all[before].Name)})
		}
	}
	return remarks
}

// covers reports whether e, an earlier rule, fits whatever r fits, so that r never
// decides. It looks at each list by itself, and so sees not every such case.
func (e *rule) covers(r *rule) bool {
	return e.expr == nil && e.Require.covers(r.Require) &&
		within(r.Principals, e.Principals) && within(r.Actions, e.Actions) &&
		!slices.ContainsFunc(r.Actions, func(a Action) bool { return !e.coversTargets(a, r) })
}

func (e *rule) coversTargets(a Action, r *rule) bool {
	switch {
	case a == SignCSR:
		return named(r.Authorities, e.Authorities) && named(r.Profiles, e.Profiles)
	case a == SignJWT:
		return named(r.KeySets, e.KeySets) && e.coversKinds(r)
	case a.OnKeySet():
		return named(r.KeySets, e.KeySets)
	}
	return true
}

// coversKinds reports whether e lets a JWT have each claims profile that r does, and
// none named where r does.
func (e *rule) coversKinds(r *rule) bool {
	asked := append(slices.Clone(r.kinds), "", ProfileJWT)
	return !slices.ContainsFunc(asked, func(profile string) bool {
		_, theirs := r.profiled(SignJWT, Target{Profile: profile})
		_, ours := e.profiled(SignJWT, Target{Profile: profile})
		return theirs && !ours
	})
}

// covers reports whether whoever has what o asks for has what q does.
func (q Require) covers(o Require) bool {
	return narrower(o.UIDs, q.UIDs) && narrower(o.GIDs, q.GIDs) && narrower(o.PINs, q.PINs)
}

// narrower reports whether a list lets nobody pass whom the list whole does not; nil
// lets everybody pass.
func narrower[T comparable](list, whole []T) bool {
	return whole == nil || list != nil && within(list, whole)
}

// within reports whether all of list are among whole.
func within[T comparable](list, whole []T) bool {
	return !slices.ContainsFunc(list, func(one T) bool { return !slices.Contains(whole, one) })
}

// named is within for names of which Any is each.
func named(list, whole []string) bool { return slices.Contains(whole, Any) || within(list, whole) }

// isNever reports whether an expression is false whatever its variables are.
func isNever(env *cel.Env, ast *cel.Ast) (bool, error) {
	program, err := env.Program(ast, cel.EvalOptions(cel.OptPartialEval), cel.CostLimit(MaxCost), cel.MemoryLimit(maxMemory))
	if err != nil {
		return false, err
	}
	var unknown []*cel.AttributePatternType
	for _, v := range variables() {
		unknown = append(unknown, cel.AttributePattern(v.name))
	}
	vars, err := cel.PartialVars(map[string]any{}, unknown...)
	if err != nil {
		return false, err
	}
	out, _, err := program.Eval(vars)
	return err == nil && out == types.False, nil
}
