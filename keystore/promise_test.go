package keystore

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestInForce(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration, maxAge, cacheFor, lifetime time.Duration) Promise {
		return Promise{At: start.Add(d), MaxAge: maxAge, CacheFor: cacheFor, MaxLifetime: lifetime}
	}
	const m, h = time.Minute, time.Hour
	long, short := at(0, 15*m, 30*m, 2*h), at(h, 5*m, 10*m, 20*m)
	for _, c := range []struct {
		name                       string
		promises                   []Promise
		now                        time.Duration
		maxAge, cacheFor, lifetime time.Duration
	}{
		{"nothing promised", nil, 0, 0, 0, 0},
		{"one promise, from its first moment", []Promise{long}, 0, 15 * m, 30 * m, 2 * h},
		{"one promise, years later", []Promise{long}, 9000 * h, 15 * m, 30 * m, 2 * h},
		{"lowered: only what is sent falls at once", []Promise{long, short}, h, 5 * m, 30 * m, 2 * h},
		{"lowered: the old A until its last moment", []Promise{long, short}, h + 30*m - 1, 5 * m, 30 * m, 2 * h},
		{"lowered: the old A has passed", []Promise{long, short}, h + 30*m, 5 * m, 10 * m, 2 * h},
		{"lowered: the old L has passed", []Promise{long, short}, 3 * h, 5 * m, 10 * m, 20 * m},
		{"raised: at once", []Promise{at(0, 5*m, 10*m, 20*m), at(h, 15*m, 30*m, 2*h)}, h, 15 * m, 30 * m, 2 * h},
		{"raised ahead of the clock: at once", []Promise{at(0, 5*m, 10*m, 20*m), at(h, 15*m, 30*m, 2*h)}, m, 15 * m, 30 * m, 2 * h},
		{"lowered twice: each counts from its own end", []Promise{long, short, at(h+5*m, m, 2*m, m)}, h + 6*m, m, 30 * m, 2 * h},
		{"lowered twice: the first is over", []Promise{at(0, 5*m, 10*m, h), at(m, 15*m, 30*m, h), at(2*m, m, 2*m, m)}, 31 * m, m, 30 * m, h},
		{"never sends more than A", []Promise{at(0, h, 10*m, h)}, 0, 10 * m, 10 * m, h},
	} {
		got := InForce(c.promises, start.Add(c.now))
		if got.MaxAge != c.maxAge || got.CacheFor != c.cacheFor || got.MaxLifetime != c.lifetime {
			t.Errorf("%s: max-age %v, A %v, L %v; want %v, %v, %v", c.name,
				got.MaxAge, got.CacheFor, got.MaxLifetime, c.maxAge, c.cacheFor, c.lifetime)
		}
	}
}

// Whatever is handed out at some moment under the promise of that moment is
// still covered by what is in force at any later moment of its life.
func TestInForceCoversWhatIsOut(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	seconds := rapid.Int64Range(0, 1000)
	rapid.Check(t, func(t *rapid.T) {
		var promises []Promise
		at := start
		for range rapid.IntRange(1, 6).Draw(t, "promises") {
			s := func(name string) time.Duration { return time.Duration(seconds.Draw(t, name)) * time.Second }
			promises = append(promises, Promise{At: at, MaxAge: s("max-age"), CacheFor: s("A"), MaxLifetime: s("L")})
			at = at.Add(s("until the next") + time.Second)
		}
		given := start.Add(time.Duration(seconds.Draw(t, "given")) * time.Second)
		n := 1
		for n < len(promises) && !promises[n].At.After(given) {
			n++
		}
		then := InForce(promises[:n], given)
		later := time.Duration(seconds.Draw(t, "later")) * time.Second
		now := InForce(promises, given.Add(later))
		if later < promises[n-1].CacheFor && now.CacheFor < promises[n-1].CacheFor {
			t.Fatalf("a cache holds a set for %v, %v are in force", promises[n-1].CacheFor, now.CacheFor)
		}
		if later < promises[n-1].MaxLifetime && now.MaxLifetime < promises[n-1].MaxLifetime {
			t.Fatalf("a token lives for %v, %v are in force", promises[n-1].MaxLifetime, now.MaxLifetime)
		}
		if then.MaxAge > then.CacheFor {
			t.Fatalf("max-age %v is more than A %v", then.MaxAge, then.CacheFor)
		}
	})
}
