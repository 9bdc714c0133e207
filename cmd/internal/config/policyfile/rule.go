package policyfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/cmd/internal/config/document"
	"chancery/signer/policy"
)

// A Rule is one rule of the policy.
type Rule struct {
	Name        string          `yaml:"rule,required"`
	Principals  []string        `yaml:"principals,required"`
	Actions     []policy.Action `yaml:"actions,required"`
	KeySets     []string        `yaml:"keysets"`
	Authorities []string        `yaml:"authorities"`
	Profiles    []string        `yaml:"profiles"`
	MaxTTL      time.Duration   `yaml:"max_ttl"`
	Types       []string        `yaml:"types"`
	Names       []string        `yaml:"names"`
	CNF         policy.CNF      `yaml:"cnf"`

	Require   policy.Require    `yaml:"require"`
	When      string            `yaml:"when,lines"`
	Audiences []string          `yaml:"audiences"`
	Scopes    []string          `yaml:"scopes"`
	Claims    policy.ClaimRules `yaml:"claims"`
	MaxClaims int               `yaml:"max_claims"`
	MaxBytes  int               `yaml:"max_bytes"`
	MaxNames  int               `yaml:"max_names"`
}

// Faults says at the members of a file what package policy found at its own.
func Faults(f *document.Findings, err error) {
	for _, e := range split(err) {
		fault(f, e)
	}
}

// split returns the errors that errors.Join joined.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func fault(f *document.Findings, err error) {
	fault, ok := errors.AsType[*policy.Fault](err)
	if !ok {
		f.Errorf("policy", "", "%v", err)
		return
	}
	path, text, hint := at(fault)
	if f.Unread[path] {
		return // said already
	}
	parent := path[:max(0, strings.LastIndexAny(path, "."))]
	required := []string{"rule", "name", "principals", "actions"}
	if slices.Contains(required, strings.TrimPrefix(path, parent+".")) && !f.Has(path) {
		return // missing: said already
	}
	if strings.HasSuffix(path, "].max_ttl") && !f.Has(path) {
		text = "max_ttl is missing: a rule to sign has a limit"
	}
	f.Errorf(path, hint, "%s", text)
}

// at returns where in the file a fault is, what is wrong, and the next move.
func at(fault *policy.Fault) (path, text, hint string) {
	path = strings.Replace(fault.Path, "rules", "policy", 1)
	path = strings.Replace(path, "anchors", "clients", 1)
	if strings.HasPrefix(path, "policy") && strings.HasSuffix(path, "].name") {
		path = strings.TrimSuffix(path, "name") + "rule"
	}
	text, hint = document.SplitHint(fault.Text)
	return path, text, hint
}

// exist says of each of names, which stand in a list at path, that nothing is
// called so unless it is known, or Any.
func exist[V any](f *document.Findings, path, what string, names []string, known map[string]V) {
	for i, n := range names {
		if _, ok := known[n]; !ok && n != policy.Any && n != "" {
			f.Errorf(fmt.Sprintf("%s[%d]", path, i), document.Suggest(n, slices.Sorted(maps.Keys(known))), "there is no %s %.40q", what, n)
		}
	}
}
