package telemetry

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func scrape(m *Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := New("v1.2.3")
	m.Gauge("chancery_ready", "1 if ready.", map[string]string{"keyset": "web"}, func() float64 { return 0.5 })
	waited := m.Durations("chancery_wait_seconds", "Waited.", map[string]string{"keystore": "hsm"})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			m.Request("POST /v1/sign/jwt", "ok", 2*time.Millisecond)
			m.Request("POST /v1/sign/jwt", "forbidden", time.Minute)
			m.HandshakeFailed()
			m.ConnectionRefused("signing", "per_peer")
			waited(3 * time.Millisecond)
			m.Reloaded(true)
			m.Reloaded(false)
			m.Step("key.activate")
			scrape(m)
		})
	}
	wg.Wait()
	text := scrape(m)
	for _, line := range []string{
		`chancery_build_info{version="v1.2.3"} 1`,
		`chancery_ready{keyset="web"} 0.5`,
		`chancery_request_duration_seconds_count{code="ok",route="POST /v1/sign/jwt"} 8`,
		`chancery_request_duration_seconds_sum{code="forbidden",route="POST /v1/sign/jwt"} 480`, // seconds, the base unit
		`chancery_request_duration_seconds_bucket{code="ok",route="POST /v1/sign/jwt",le="0.001"} 0`,
		`chancery_request_duration_seconds_bucket{code="ok",route="POST /v1/sign/jwt",le="0.0025"} 8`,
		`chancery_handshake_failures_total 8`,
		`chancery_connections_refused_total{door="signing",limit="per_peer"} 8`,
		`chancery_wait_seconds_bucket{keystore="hsm",le="0.0025"} 0`,
		`chancery_wait_seconds_bucket{keystore="hsm",le="0.005"} 8`,
		`chancery_reloads_total{outcome="ok"} 8`,
		`chancery_reloads_total{outcome="failed"} 8`,
		`chancery_lifecycle_steps_total{action="key.activate"} 8`,
		`# TYPE go_goroutines gauge`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}

// A reload that was refused showed in nothing that one alerts on.
func TestTheLastReload(t *testing.T) {
	m := New("v1")
	const successful = "chancery_config_last_reload_successful "
	at := func() string {
		_, rest, ok := strings.Cut(scrape(m), "\nchancery_config_last_reload_success_timestamp_seconds ")
		when, _, _ := strings.Cut(rest, "\n")
		if !ok || when == "0" {
			t.Error("it is not said when the configuration was read")
		}
		return when
	}
	want := func(what, value string) {
		t.Helper()
		if !strings.Contains(scrape(m), successful+value+"\n") {
			t.Errorf("%s: not %s", what, value)
		}
	}
	want("at the start", "1")
	start := at()
	m.Reloaded(false)
	want("refused", "0")
	if now := at(); now != start {
		t.Errorf("a reload that was refused counts as one that took: at %s, not %s", now, start)
	}
	m.Reloaded(true)
	want("reloaded", "1")
	if now := at(); now == start {
		t.Error("a reload leaves the time of the start")
	}
}

// Two daemons in one process, as in tests, do not share a registry; and each
// metric tells what it is.
func TestRegistriesAreApart(t *testing.T) {
	one, two := New("one"), New("two")
	one.HandshakeFailed()
	if text := scrape(two); !strings.Contains(text, "chancery_handshake_failures_total 0\n") || strings.Contains(text, `"one"`) {
		t.Error("one daemon's numbers are another's")
	}
	for line := range strings.Lines(scrape(one)) {
		if name, ok := strings.CutPrefix(line, "# HELP chancery_"); ok {
			if _, help, ok := strings.Cut(name, " "); !ok || strings.TrimSpace(help) == "" {
				t.Errorf("%q says nothing", line)
			}
		}
	}
}
