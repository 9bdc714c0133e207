package rotation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// steps are the acts that bring a version to each state.
var steps = []keystore.Action{
	keystore.ActKeyGenerate, keystore.ActKeyPublish, keystore.ActKeyActivate, keystore.ActKeyRetire, keystore.ActKeyRemove, keystore.ActKeyDestroy,
}

// toldTo is what a log tells of web version 1 that came to a state.
func toldTo(state keystore.State, more ...keystore.Record) *audit.KeyLives {
	lives := audit.NewKeyLives()
	add := func(i int, rec keystore.Record) {
		rec.KeySet, rec.Version = "web", 1
		lives.Add(&rec, time.Unix(int64(i), 0), fmt.Sprintf("log#%d", i))
	}
	for i := range state {
		rec := keystore.Record{Action: steps[i], Outcome: keystore.OutcomeDone, KID: "v1", State: (i + 1).String()}
		if steps[i] == keystore.ActKeyGenerate {
			rec.Outcome, rec.KID, rec.Detail = keystore.OutcomeIntent, "", map[string]string{"keystore": "hsm", "algorithm": "EdDSA"}
		}
		add(int(i), rec)
	}
	for i, rec := range more {
		add(100+i, rec)
	}
	return lives
}

func rowIn(state keystore.State, change ...func(v *keystore.Version)) *keystore.KeySet {
	v := keystore.Version{Number: 1, KID: "v1", Algorithm: keystore.EdDSA, Keystore: "hsm", State: state}
	if state == keystore.Pending {
		v.KID = ""
	}
	for _, f := range change {
		f(&v)
	}
	return &keystore.KeySet{Name: "web", Purpose: keystore.PurposeJWT, Keystore: "soft", Versions: []keystore.Version{v}}
}

func told(all []Mismatch) (lines []string) {
	for _, m := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s %d: %s", m.Kind, m.Keystore, m.KeySet, m.Version, m.What))
		if m.Todo == "" || m.Stray() || !m.Kind.Disagrees() {
			lines = append(lines, fmt.Sprintf("%+v", m))
		}
	}
	return lines
}

func TestTheLogAgainstTheCatalog(t *testing.T) {
	compromised := func(v *keystore.Version) { v.Compromised = &keystore.Fact{} }
	compromise := keystore.Record{Action: keystore.ActCompromise, Outcome: keystore.OutcomeDone, KID: "v1", State: "retired"}
	for _, c := range []struct {
		what          string
		before, after *keystore.KeySet
		lives         *audit.KeyLives
		want          string // empty: nothing
	}{
		{"they agree", rowIn(keystore.Active), rowIn(keystore.Active), toldTo(keystore.Active), ""},
		{"from before purpose and key were entered, pending", rowIn(keystore.Pending), rowIn(keystore.Pending), toldTo(keystore.Pending), ""},
		{"a step was taken meanwhile, and the log has it", rowIn(keystore.Active), rowIn(keystore.Retiring), toldTo(keystore.Retiring), ""},
		{"a step was taken meanwhile, after the log was read", rowIn(keystore.Active), rowIn(keystore.Retiring), toldTo(keystore.Active), ""},
		{"the catalog says active, and the log retired", rowIn(keystore.Active), rowIn(keystore.Active), toldTo(keystore.Retired),
			"log_state hsm web 1: the catalog says that it is active, and the log that it is retired (log#4)"},
		{"the catalog says active, and the log published", rowIn(keystore.Active), rowIn(keystore.Active), toldTo(keystore.Published),
			"log_state hsm web 1: the catalog says that it is active, and the log that it is published (log#1)"},
		{"pending at another node", rowIn(keystore.Pending), rowIn(keystore.Pending), audit.NewKeyLives(), ""},
		{"the log does not have it", rowIn(keystore.Published), rowIn(keystore.Published), audit.NewKeyLives(),
			"not_in_log hsm web 1: the catalog says that it is published, and the log has nothing of it"},
		{"the catalog does not have it", &keystore.KeySet{Name: "web", Keystore: "soft"}, &keystore.KeySet{Name: "web", Keystore: "soft"}, toldTo(keystore.Active),
			"not_in_catalog hsm web 1: the log says that it is active (log#2), and the catalog does not have it"},
		{"a row that was made meanwhile", &keystore.KeySet{Name: "web"}, rowIn(keystore.Pending), toldTo(keystore.Pending), ""},
		{"another key set's", &keystore.KeySet{Name: "edge"}, &keystore.KeySet{Name: "edge"}, toldTo(keystore.Active), ""},
		{"compromised in both", rowIn(keystore.Retired, compromised), rowIn(keystore.Retired, compromised), toldTo(keystore.Active, compromise), ""},
		{"compromised in the catalog alone", rowIn(keystore.Retired, compromised), rowIn(keystore.Retired, compromised), toldTo(keystore.Retired),
			"log_state hsm web 1: the catalog says that it is compromised, and the log does not"},
		{"compromised in the log alone", rowIn(keystore.Retired), rowIn(keystore.Retired), toldTo(keystore.Active, compromise),
			"log_state hsm web 1: the log says that it is compromised (log#100), and the catalog does not"},
		{"compromised meanwhile", rowIn(keystore.Retired), rowIn(keystore.Retired, compromised), toldTo(keystore.Retired), ""},
		{"another kid", rowIn(keystore.Active, func(v *keystore.Version) { v.KID = "other" }), rowIn(keystore.Active, func(v *keystore.Version) { v.KID = "other" }), toldTo(keystore.Active),
			"log_key hsm web 1: the catalog has the kid other, and the log v1"},
		{"another algorithm", rowIn(keystore.Active, func(v *keystore.Version) { v.Algorithm = keystore.ES256 }), rowIn(keystore.Active, func(v *keystore.Version) { v.Algorithm = keystore.ES256 }), toldTo(keystore.Active),
			"log_key hsm web 1: the catalog has it for ES256, and the log for EdDSA"},
	} {
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		if got := told(CompareLog(c.before, c.after, c.lives)); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, strings.Join(got, "\n"), c.want)
		}
	}
}

func TestThePublishedSetAgainstTheCatalog(t *testing.T) {
	set := func(states ...keystore.State) *keystore.KeySet {
		ks := &keystore.KeySet{Name: "web", Keystore: "soft"}
		for i, s := range states {
			ks.Versions = append(ks.Versions, keystore.Version{Number: i + 1, KID: keystore.KID(fmt.Sprint("v", i+1)), Keystore: "hsm", State: s})
			ks.Acks = append(ks.Acks, keystore.Ack{Node: "n1", Version: i + 1})
		}
		return ks
	}
	both := set(keystore.Active, keystore.Published)
	unserved := set(keystore.Active, keystore.Published)
	unserved.Acks = unserved.Acks[:1]
	compromised := set(keystore.Active, keystore.Published)
	compromised.Versions[0].Compromised = &keystore.Fact{}
	for _, c := range []struct {
		what          string
		before, after *keystore.KeySet
		served        []keystore.KID
		want          []string
	}{
		{"they agree", both, both, []keystore.KID{"v1", "v2"}, nil},
		{"not served here yet", unserved, unserved, []keystore.KID{"v1"}, nil},
		{"one is not served", both, both, []keystore.KID{"v1"},
			[]string{"jwks_missing hsm web 2: this node has said that it serves it, and the published set does not have it"}},
		{"nothing is", both, both, nil, []string{"jwks_missing hsm web 1: ", "jwks_missing hsm web 2: "}},
		{"one has left meanwhile", both, set(keystore.Retired, keystore.Active), []keystore.KID{"v2"}, nil},
		{"one that leaves meanwhile is served still", both, set(keystore.Retired, keystore.Active), []keystore.KID{"v1", "v2"}, nil},
		{"one that has left is served", set(keystore.Retired, keystore.Active), set(keystore.Retired, keystore.Active), []keystore.KID{"v1", "v2"},
			[]string{"jwks_extra hsm web 1: the published set has the kid v1, which the world is not to know"}},
		{"a compromised one is served", compromised, compromised, []keystore.KID{"v1", "v2"}, []string{"jwks_extra hsm web 1: "}},
		{"nobody's is served", both, both, []keystore.KID{"v1", "v2", "evil"},
			[]string{"jwks_extra soft web 0: the published set has the kid evil, which the world is not to know"}},
	} {
		got := told(ComparePublished(c.before, c.after, "n1", c.served))
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s:\n%s\nwant\n%s", c.what, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// The same disagreement is one entry; another state makes it another.
func TestADisagreementIsEnteredOnce(t *testing.T) {
	at := func(state keystore.State) Mismatch {
		found := CompareLog(rowIn(keystore.Active), rowIn(keystore.Active), toldTo(state))
		if len(found) != 1 {
			t.Fatalf("%+v", found)
		}
		return found[0]
	}
	one, again, other := at(keystore.Retired), at(keystore.Retired), at(keystore.Retiring)
	a, b, c := mismatchRecord(&one), mismatchRecord(&again), mismatchRecord(&other)
	if a.ID != b.ID || a.ID == c.ID || a.Action != keystore.ActKeyDisputed || a.Detail["kind"] != "log_state" || a.KID != "v1" || a.State != "active" {
		t.Errorf("%+v, %+v", a, c)
	}
}
