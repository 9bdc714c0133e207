package rotation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fast is the schedule of chanceryd dev --fast; slow is the other one.
var (
	fast = Schedule{
		Every: 20 * time.Second, MaxAge: 2 * time.Second, CacheFor: 4 * time.Second,
		Skew: time.Second, Lifetime: 10 * time.Second, Ahead: true,
	}
	slow = Schedule{
		Every: 30 * 24 * time.Hour, MaxAge: 15 * time.Minute, CacheFor: 30 * time.Minute,
		Skew: 5 * time.Minute, Lifetime: time.Hour, Ahead: true,
	}
)

// at returns the moment d after the start.
func at(d time.Duration) time.Time { return start.Add(d) }

// lives returns a key set, first served at the start, with these versions.
func lives(sch Schedule, versions ...keystore.Version) *keystore.KeySet {
	ks := &keystore.KeySet{
		Name: "web", Purpose: keystore.PurposeJWT, Algorithm: keystore.EdDSA, Keystore: "hsm",
		CreatedAt: start, Promises: []keystore.Promise{sch.promise(start)},
	}
	for i, v := range versions {
		v.Number, v.Algorithm, v.KID = i+1, keystore.EdDSA, keystore.KID(fmt.Sprintf("kid%d", i+1))
		if v.Keystore == "" {
			v.Keystore = "hsm"
		}
		if !v.ServedAt.IsZero() && (ks.ServedAt.IsZero() || v.ServedAt.Before(ks.ServedAt)) {
			ks.ServedAt = v.ServedAt
		}
		ks.Versions = append(ks.Versions, v)
	}
	return ks
}

// served returns ks with the moment its set was first served.
func served(at time.Time, ks *keystore.KeySet) *keystore.KeySet {
	ks.ServedAt = at
	return ks
}

func pending() keystore.Version { return keystore.Version{State: keystore.Pending, CreatedAt: start} }

func abandoned(when time.Duration) keystore.Version {
	return keystore.Version{State: keystore.Abandoned, CreatedAt: at(when), DestroyedAt: at(when)}
}

func published(served time.Duration) keystore.Version {
	return keystore.Version{State: keystore.Published, CreatedAt: at(served), PublishedAt: at(served), ServedAt: at(served)}
}

func unserved() keystore.Version {
	return keystore.Version{State: keystore.Published, CreatedAt: start, PublishedAt: start}
}

func active(since time.Duration) keystore.Version {
	v := published(since)
	v.State, v.ActivatedAt, v.MaxLifetime = keystore.Active, at(since), fast.Lifetime
	return v
}

func withoutHorizon(sch Schedule) Schedule {
	sch.NoHorizon = true
	return sch
}

func retiring(stopped time.Duration, horizon time.Time) keystore.Version {
	v := active(0)
	v.State, v.StoppedAt, v.ExpHorizon = keystore.Retiring, at(stopped), horizon
	return v
}

func suspended(v keystore.Version, when time.Duration) keystore.Version {
	v.Suspended = &keystore.Fact{At: at(when), By: "olga", Reason: "doubt"}
	return v
}

func elsewhere(v keystore.Version) keystore.Version {
	v.Keystore = "old"
	return v
}

func TestPlan(t *testing.T) {
	const s = time.Second
	request := fast
	request.Every, request.Ahead = 0, false
	late := fast
	late.Ahead = false
	keeps := fast
	keeps.Lifetime = 0
	destroys := fast
	destroys.DestroyAfter = time.Minute
	none, asked := (*keystore.Fact)(nil), func(d time.Duration) *keystore.Fact { return &keystore.Fact{At: at(d), By: "olga"} }
	retired := keystore.Version{State: keystore.Retired, StoppedAt: at(0), RetiredAt: at(10 * s), MaxLifetime: 10 * s}
	for _, c := range []struct {
		name   string
		sch    Schedule
		set    *keystore.KeySet
		asked  *keystore.Fact
		now    time.Duration
		want   string // the step, or "-"
		why    string // part of what holds or explains it
		wakeAt time.Duration
	}{
		{"a new set", fast, lives(fast), none, 0, "generate 1", "no version to sign", 0},
		{"a pending version is finished", fast, lives(fast, pending()), none, 0, "publish 1", "rule 8", 0},
		{"the first version waits only until it is served", fast, lives(fast, unserved()), none, time.Hour, "-", "rule 1: no node", -1},
		{"the first version, served", fast, lives(fast, published(3*s)), none, 3 * s, "activate 1", "rule 1: first served at 12:00:03", 0},
		{"of two versions nobody knows that both were in the first served set", fast, lives(fast, published(3*s), published(3*s)), none, 3 * s, "-", "rule 1: caches", 8 * s},
		{"the second of them waits", fast, lives(fast, active(0), published(0)), asked(0), s, "-", "rule 1: caches", 5 * s},
		{"the successor is published ahead", fast, lives(fast, active(0)), none, 0, "generate 2", "published ahead", 0},
		{"the successor is published when its time comes near", late, lives(fast, active(0)), none, 0, "-", "signs until 12:00:20", 13 * s},
		{"…and then", late, lives(fast, active(0)), none, 13 * s, "generate 2", "", 0},
		{"on request only", request, lives(fast, active(0)), none, 9999 * time.Hour, "-", "on request only", -1},
		{"on request only, with a successor", request, lives(fast, active(0), published(s)), none, 9999 * time.Hour, "-", "on request only", -1},
		{"requested, no successor", request, lives(fast, active(0)), asked(0), s, "generate 2", "rule 7", 0},
		{"requested, successor too young", request, lives(fast, active(0), published(5*s)), asked(s), 9 * s, "-", "rule 1: caches may hold the old set until 12:00:10", 10 * s},
		{"requested, successor ready", request, lives(fast, active(0), published(5*s)), asked(s), 10 * s, "activate 2 after 1", "", 0},
		{"not before its time", fast, lives(fast, active(0), published(s)), none, 20*s - 1, "-", "schedule: version 1 signs until 12:00:20", 20 * s},
		{"at its time", fast, lives(fast, active(0), published(s)), none, 20 * s, "activate 2 after 1", "", 0},
		{"S16 overdue for days, but published: at once", fast, lives(fast, active(0), published(s)), none, 99 * time.Hour, "activate 2 after 1", "", 0},
		{"S16 overdue and not published: the whole window", fast, lives(fast, active(0), published(99*time.Hour)), none, 99*time.Hour + 4*s, "-", "rule 1: caches", 99*time.Hour + 5*s},
		{"S17 published but not served", fast, lives(fast, active(0), unserved()), none, time.Hour, "-", "rule 1: no node has said that it serves version 2", -1},
		{"S14 a clock set back makes no version the first", fast, served(start, lives(fast, active(0), published(-time.Hour))), asked(-time.Hour), -time.Hour, "-", "rule 1: caches", -time.Hour + 5*s},
		{"retiring: until its horizon and S", fast, lives(fast, retiring(20*s, at(24*s)), active(20*s), published(20*s)), none, 24 * s, "-", "rule 2: tokens it signed may be valid until 12:00:25", 25 * s},
		{"retiring: its horizon has passed", fast, lives(fast, retiring(20*s, at(24*s)), active(20*s), published(20*s)), none, 25 * s, "remove 1", "", 0},
		{"retiring: a horizon that does not count", withoutHorizon(fast), lives(fast, retiring(20*s, at(24*s)), active(20*s), published(20*s)), none, 30 * s, "-", "", 31 * s},
		{"retiring: a horizon counts no longer than L", fast, lives(fast, retiring(20*s, at(time.Hour)), active(20*s), published(20*s)), none, 30 * s, "-", "", 31 * s},
		{"retiring: what never signed", fast, lives(fast, retiring(20*s, time.Time{}), active(20*s), published(20*s)), none, 21 * s, "remove 1", "", 0},
		{"retiring: what never expires stays", keeps, &keystore.KeySet{Purpose: keystore.PurposeAudit, Versions: []keystore.Version{
			{Number: 1, State: keystore.Retiring, StoppedAt: start}, {Number: 2, State: keystore.Active, ActivatedAt: start}, {Number: 3, State: keystore.Published, ServedAt: start},
		}}, none, 0, "-", "schedule", 20 * s},
		{"removal goes before activation", fast, lives(fast, retiring(0, start), active(0), published(0)), none, 20 * s, "remove 1", "", 0},
		{"rule 6: the active version is suspended", fast, lives(fast, suspended(active(0), s), published(s)), none, time.Hour, "-", "rule 6: version 1 is suspended", -1},
		{"rule 6: retiring goes on", fast, lives(fast, retiring(0, start), suspended(active(0), s), published(0)), none, time.Hour, "remove 1", "", 0},
		{"rule 6: publishing goes on", fast, lives(fast, suspended(active(0), s)), none, time.Hour, "generate 2", "", 0},
		{"rule 6: a request from before the suspension", fast, lives(fast, suspended(active(0), 5*s), published(s)), asked(4 * s), time.Hour, "-", "rule 6", -1},
		{"rule 6: a request of the same moment", fast, lives(fast, suspended(active(0), 5*s), published(s)), asked(5 * s), time.Hour, "-", "rule 6", -1},
		{"rule 6: a request after the suspension", fast, lives(fast, suspended(active(0), 5*s), published(s)), asked(6 * s), time.Hour, "activate 2 after 1", "", 0},
		{"the successor is suspended", fast, lives(fast, active(0), suspended(published(s), s)), none, time.Hour, "-", "rule 6: version 2 is suspended itself", -1},
		{"the successor is suspended, and one is asked for", fast, lives(fast, active(0), suspended(published(s), s)), asked(2 * s), time.Hour, "generate 3", "rule 7", 0},
		{"a successor the configuration does not want", fast, lives(fast, active(0), elsewhere(published(s))), none, time.Hour, "generate 3", "", 0},
		{"it leaves when the wanted one is served", fast, lives(fast, active(0), elsewhere(published(s)), published(2*s)), none, 3 * s, "remove 2", "never used", 0},
		{"one attempt came to nothing", fast, lives(fast, active(0), abandoned(s)), none, s, "generate 3", "", 0},
		{"S19 four attempts came to nothing", fast, lives(fast, active(0), abandoned(s), abandoned(s), abandoned(2*s), abandoned(5*s)), none, 8 * s, "-", "rule 8: the last 4 attempts came to nothing", 9 * s},
		{"never more than an hour apart", fast, lives(fast, append([]keystore.Version{active(0)}, many(40, abandoned(s))...)...), none, time.Hour, "-", "rule 8", time.Hour + s},
		{"as many known as may be", fast, lives(fast, append(many(19, retiring(0, at(time.Hour))), active(0))...), none, s, "-", "rule 2", 11 * s},
		{"retired keys are kept", fast, lives(fast, retired, active(0), published(0)), none, s, "-", "schedule", 20 * s},
		{"destroying, where it is configured", destroys, lives(fast, retired, active(60*s), published(0)), none, 70 * s, "destroy 1", "rule 9", 0},
		{"intervals of years", Schedule{Every: 3 * 365 * 24 * time.Hour, CacheFor: time.Hour, Skew: time.Minute, Lifetime: time.Hour}, lives(slow, active(0)), none, 0, "-", "schedule: version 1 signs until 2029-02-28T12:00:00Z", 3*365*24*time.Hour - time.Hour - 2*time.Minute},
	} {
		f := Facts{Set: c.set, Rotate: c.asked}
		step, why := Plan(f, c.sch, at(c.now))
		got := "-"
		if step != NoStep {
			got = fmt.Sprintf("%s %d", step.Kind, step.Version)
		}
		if step.From != 0 {
			got += fmt.Sprintf(" after %d", step.From)
		}
		if got != c.want || !strings.Contains(why.Text, c.why) {
			t.Errorf("%s: %s because %q, want %s because of %q", c.name, got, why.Text, c.want, c.why)
		}
		if c.want != "-" {
			continue
		}
		if c.wakeAt == -1 && !why.At.IsZero() || c.wakeAt != -1 && !why.At.Equal(at(c.wakeAt)) {
			t.Errorf("%s: looks again at %v, want %v (%v)", c.name, why.At, at(c.wakeAt), why)
		}
	}
}

func many(n int, v keystore.Version) []keystore.Version {
	vs := make([]keystore.Version, n)
	for i := range vs {
		vs[i] = v
	}
	return vs
}

// A version whose key was not seen to sign is never activated.
func TestPlanRule8Proven(t *testing.T) {
	set := lives(fast, active(0), published(0))
	proven := false
	f := Facts{Set: set, Proven: func(keystore.KID) bool { return proven }}
	if step, why := Plan(f, fast, at(time.Hour)); step != NoStep || why.Rule != 8 {
		t.Errorf("planned %v (%v) for a key that was not proven", step, why)
	}
	proven = true
	if step, _ := Plan(f, fast, at(time.Hour)); step != (Step{Activate, 2, 1}) {
		t.Errorf("planned %v once it was", step)
	}
}

// Rule 3: raising A holds a version that is on its way back at once, lowering it
// helps only when the old A has run out.
func TestPlanRule3(t *testing.T) {
	const s = time.Second
	long := fast
	long.CacheFor = 60 * s
	raised := lives(fast, active(0), published(10*s))
	raised.Promises = append(raised.Promises, long.promise(at(14*s)))
	if _, why := Plan(Facts{Set: raised}, long, at(20*s)); !why.At.Equal(at(71 * s)) {
		t.Errorf("A raised to a minute: %v at %v, want 61 s after it was served", why, why.At)
	}
	lowered := lives(long, active(0), published(10*s))
	lowered.Promises = append(lowered.Promises, fast.promise(at(12*s)))
	for _, c := range []struct{ now, want time.Duration }{{20 * s, 71 * s}, {70 * s, 71 * s}} {
		if _, why := Plan(Facts{Set: lowered}, fast, at(c.now)); !why.At.Equal(at(c.want)) {
			t.Errorf("A lowered, at %v: %v at %v, want %v", c.now, why, why.At, at(c.want))
		}
	}
	early := lives(long, active(0), published(65*s))
	early.Promises = append(early.Promises, fast.promise(at(12*s)))
	for _, c := range []struct{ now, want time.Duration }{{65 * s, 73 * s}, {72 * s, 73 * s}} {
		if _, why := Plan(Facts{Set: early}, fast, at(c.now)); !why.At.Equal(at(c.want)) {
			t.Errorf("A lowered long ago, at %v: %v at %v, want %v", c.now, why, why.At, at(c.want))
		}
	}
}

// A published version that had lost its key used to hold up rotation for ever.
func TestAVersionWithoutItsKeyIsReplaced(t *testing.T) {
	set := lives(fast, active(0), published(time.Second))
	f := Facts{Set: set, Gone: func(kid keystore.KID) string {
		if kid == set.Versions[1].KID {
			return "its key is gone"
		}
		return ""
	}}
	now := at(10 * time.Second)
	if step, why := Plan(f, fast, now); step.Kind != Generate || step.Version != 3 {
		t.Errorf("%+v: %s; want version 3 generated", step, why)
	}
	f.Set = lives(fast, active(0), published(time.Second), unserved())
	set.Versions[1].KID = f.Set.Versions[1].KID
	if step, why := Plan(f, fast, now); step != NoStep {
		t.Errorf("%+v: %s, while its successor is not served yet", step, why)
	}
	f.Set = lives(fast, active(0), published(time.Second), published(9*time.Second))
	step, why := Plan(f, fast, now)
	if step != (Step{Kind: Remove, Version: 2}) || why.Rule != 8 || !strings.Contains(why.Text, "its key is gone") {
		t.Errorf("%+v: %s; want version 2 removed", step, why)
	}
}

func TestTimeline(t *testing.T) {
	var got []string
	for _, p := range Timeline(Facts{Set: lives(fast)}, fast, start, at(62*time.Second)) {
		got = append(got, fmt.Sprintf("%s %s %d: %s", p.At.Format("04:05"), p.Kind, p.Version, p.HeldBy))
	}
	want := []string{
		"00:00 generate 1: schedule: there is no version to sign",
		"00:00 publish 1: rule 8: its key is found and proven first",
		"00:00 activate 1: rule 1: first served at 12:00:00",
		"00:00 generate 2: schedule: the successor of version 1 is published ahead",
		"00:00 publish 2: rule 8: its key is found and proven first",
		"00:20 activate 2: schedule: version 1 signs until 12:00:20",
		"00:20 retire 1: rule 4: one version signs at a time",
		"00:20 generate 3: schedule: the successor of version 2 is published ahead",
		"00:20 publish 3: rule 8: its key is found and proven first",
		"00:31 remove 1: rule 2: tokens it signed may be valid until 12:00:31",
		"00:40 activate 3: schedule: version 2 signs until 12:00:40",
		"00:40 retire 2: rule 4: one version signs at a time",
		"00:40 generate 4: schedule: the successor of version 3 is published ahead",
		"00:40 publish 4: rule 8: its key is found and proven first",
		"00:51 remove 2: rule 2: tokens it signed may be valid until 12:00:51",
		"01:00 activate 4: schedule: version 3 signs until 12:01:00",
		"01:00 retire 3: rule 4: one version signs at a time",
		"01:00 generate 5: schedule: the successor of version 4 is published ahead",
		"01:00 publish 5: rule 8: its key is found and proven first",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTimelineChangesNothing: looking ahead leaves the set as it was.
func TestTimelineChangesNothing(t *testing.T) {
	set := lives(fast, active(0), published(time.Second))
	before := fmt.Sprintf("%+v", *set)
	Timeline(Facts{Set: set, Rotate: &keystore.Fact{At: start}}, fast, start, at(time.Hour))
	if after := fmt.Sprintf("%+v", *set); after != before {
		t.Errorf("the set was\n%s\nand is\n%s", before, after)
	}
}

func TestWindows(t *testing.T) {
	set := lives(slow, active(0), published(0))
	w := Windows(Facts{Set: set}, slow, at(time.Hour))
	month := at(slow.Every)
	if one := w[1]; !one.SignsFrom.Equal(start) || !one.SignsUntil.Equal(month) || !one.RetiresAt.Equal(month.Add(slow.Lifetime+slow.Skew)) {
		t.Errorf("version 1: %+v", one)
	}
	if two := w[2]; !two.SignsFrom.Equal(month) || !two.SignsUntil.Equal(month.Add(slow.Every)) {
		t.Errorf("version 2: %+v", two)
	}
}

func TestAlarms(t *testing.T) {
	f := Facts{Set: lives(fast, suspended(retiring(0, at(time.Hour)), time.Second), active(time.Second), unserved(), pending())}
	f.Gone = func(kid keystore.KID) string {
		if kid == f.Set.Versions[2].KID {
			return "its key is gone"
		}
		return ""
	}
	alarms := Alarms(f, fast, at(2*time.Minute))
	for number, part := range map[int]string{
		1: "suspended by olga: doubt", 2: "signs 1m39s beyond its period", 3: "its key is gone, no node", 4: "not come to be",
	} {
		if got := strings.Join(alarms[number], ", "); !strings.Contains(got, part) {
			t.Errorf("version %d: %q, want %q in it", number, got, part)
		}
	}
}
