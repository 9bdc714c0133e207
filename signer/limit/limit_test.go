package limit

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"chancery/signer/policy"
)

func named(name string) policy.Principal {
	return policy.Principal{Anchor: "dev", Kind: policy.KindDNS, Value: name}
}

// A bench is a Limiter and the time of day there.
type bench struct {
	*Limiter
	at time.Time
}

func newBench(c Config) *bench {
	b := &bench{at: time.Date(2026, 3, 1, 23, 30, 0, 0, time.UTC)}
	b.Limiter = New(c, func() time.Time { return b.at })
	return b
}

func refusal(t testing.TB, err error, cause Cause) *Refusal {
	t.Helper()
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.Cause != cause {
		t.Fatalf("%v, want a refusal by %s", err, cause)
	}
	return r
}

func TestRate(t *testing.T) {
	a, b := named("a"), named("b")
	l := newBench(Config{Default: Limit{Rate: 10, Burst: 3}, Principals: map[policy.Principal]Limit{b: {}}})
	ask := func(who policy.Principal) error {
		release, err := l.Admit(who)
		if err == nil {
			release()
		}
		return err
	}
	for i := range 3 {
		if err := ask(a); err != nil {
			t.Fatalf("request %d of a burst of 3: %v", i, err)
		}
	}
	if r := refusal(t, ask(a), Rate); r.Wait != 100*time.Millisecond || r.Most != 10 {
		t.Errorf("%+v", r)
	}
	for range 100 {
		if err := ask(b); err != nil {
			t.Fatalf("who has no rate: %v", err)
		}
	}
	l.at = l.at.Add(100 * time.Millisecond)
	if err := ask(a); err != nil {
		t.Errorf("a tenth of a second later: %v", err)
	}
	l.Charge(a, 20)
	if r := refusal(t, ask(a), Rate); r.Wait != 2100*time.Millisecond {
		t.Errorf("after a batch of 21: %+v", r)
	}
	l.at = l.at.Add(2100 * time.Millisecond)
	if err := ask(a); err != nil {
		t.Errorf("when that is made up for: %v", err)
	}
	if n := l.Refused(Rate); n != 2 {
		t.Errorf("%d refused", n)
	}
}

func TestConcurrent(t *testing.T) {
	a, b := named("a"), named("b")
	l := newBench(Config{Default: Limit{Concurrent: 2}})
	first, err := l.Admit(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Admit(a); err != nil {
		t.Fatal(err)
	}
	_, err = l.Admit(a)
	refusal(t, err, Concurrent)
	if _, err := l.Admit(b); err != nil {
		t.Errorf("another principal: %v", err)
	}
	first()
	if _, err := l.Admit(a); err != nil {
		t.Errorf("when one was answered: %v", err)
	}
}

// TestA33Quota: a stolen certificate signs all day. One alert tells of it, and it is
// stopped if the quota says so.
func TestA33Quota(t *testing.T) {
	strict, lax := named("strict"), named("lax")
	l := newBench(Config{Principals: map[policy.Principal]Limit{
		strict: {Quota: Quota{Signatures: 3, Per: Hour, Refuse: true}},
		lax:    {Quota: Quota{Signatures: 3, Per: Day}},
	}})
	for who, want := range map[policy.Principal]time.Time{
		strict: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), lax: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC),
	} {
		for i := 1; i <= 3; i++ {
			alert, err := l.Sign(who)
			if err != nil || (alert != nil) != (i == 3) {
				t.Fatalf("%s, signature %d: %+v, %v", who, i, alert, err)
			}
			if alert != nil && !alert.Until.Equal(want) {
				t.Errorf("%s: until %v", who, alert.Until)
			}
		}
	}
	if alert, err := l.Sign(lax); alert != nil || err != nil {
		t.Errorf("a second alert in one window, or a refusal: %+v, %v", alert, err)
	}
	_, err := l.Sign(strict)
	if r := refusal(t, err, OverQuota); r.Wait != 30*time.Minute {
		t.Errorf("%+v", r)
	}
	_, err = l.Admit(strict)
	refusal(t, err, OverQuota)
	l.at = l.at.Add(30 * time.Minute)
	if _, err := l.Sign(strict); err != nil {
		t.Errorf("in the next window: %v", err)
	}
	if n := l.Alerts(); n != 2 {
		t.Errorf("%d alerts", n)
	}
}

func TestAnAlertThatWasNotToldIsTheNextOnes(t *testing.T) {
	who := named("a")
	l := newBench(Config{Default: Limit{Quota: Quota{Signatures: 2, Refuse: true}}})
	l.Sign(who)
	if alert, _ := l.Sign(who); alert == nil {
		t.Fatal("no alert")
	}
	l.Unsaid(who)
	if alert, err := l.Sign(who); alert == nil || err != nil {
		t.Errorf("%+v, %v", alert, err)
	}
}

func TestLimitsChange(t *testing.T) {
	who := named("a")
	l := newBench(Config{Default: Limit{Rate: 1, Concurrent: 1}})
	release, err := l.Admit(who)
	if err != nil {
		t.Fatal(err)
	}
	l.Set(Config{Default: Limit{Weight: 7}})
	if _, err := l.Admit(who); err != nil || l.Weight(who) != 7 {
		t.Errorf("after a change: %v, weight %d", err, l.Weight(who))
	}
	release()
	l.Set(Config{Default: Limit{Concurrent: 1}})
	_, err = l.Admit(who) // the second still counts
	refusal(t, err, Concurrent)
}

func TestIdlePrincipalsAreForgotten(t *testing.T) {
	l := newBench(Config{Default: Limit{Rate: 100, Quota: Quota{Per: Hour}}})
	for i := range 1000 {
		release, err := l.Admit(named(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			release()
		}
	}
	l.Sign(named("1"))
	l.at = l.at.Add(2 * time.Minute)
	if _, err := l.Admit(named("new")); err != nil || l.Known() != 3 {
		t.Errorf("%d are known, want the one inside, the one that signed in this hour, and the new one (%v)", l.Known(), err)
	}
}

// TestNobodyGetsMoreThanTheRate: whatever the order of requests, batches and pauses.
func TestNobodyGetsMoreThanTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lim := Limit{Rate: rapid.IntRange(1, 50).Draw(t, "rate"), Burst: rapid.IntRange(1, 20).Draw(t, "burst")}
		l, who := newBench(Config{Default: lim}), named("a")
		began, had, largest := l.at, 0, 1
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			l.at = l.at.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "pause")) * time.Millisecond)
			release, err := l.Admit(who)
			if err != nil {
				continue
			}
			release()
			batch := rapid.IntRange(1, 40).Draw(t, "batch")
			l.Charge(who, batch-1)
			had += batch
			largest = max(largest, batch)
			if most := float64(lim.Burst+largest) + l.at.Sub(began).Seconds()*float64(lim.Rate); float64(had) > most {
				t.Fatalf("%d in %v, more than %v", had, l.at.Sub(began), most)
			}
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	l, who := New(Config{Default: Limit{Rate: 1 << 30}}, time.Now), named("a")
	b.ReportAllocs()
	for b.Loop() {
		release, err := l.Admit(who)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}
