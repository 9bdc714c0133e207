// Package telemetry is what the daemon tells about itself in numbers: a
// Prometheus registry with closed label sets and base units. No label has a
// value that a caller chose, so no caller can make the registry grow.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics holds the daemon's metrics. Its methods may be called concurrently.
type Metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.HistogramVec
	handshake prometheus.Counter
	full      *prometheus.CounterVec
	reloads   *prometheus.CounterVec
	reloaded  prometheus.Gauge
	loaded    prometheus.Gauge
	steps     *prometheus.CounterVec
}

// New returns metrics with a registry of their own, which also tells the
// version of the program and the state of its process.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "chancery_request_duration_seconds",
			Help:    "Time to answer a request, by route and code (ok, or the problem's).",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"route", "code"}),
		handshake: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "chancery_handshake_failures_total", Help: "TLS handshakes that failed.",
		}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_connections_refused_total", Help: "Connections closed at once because too many were open, by door and limit.",
		}, []string{"door", "limit"}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chancery_config_last_reload_successful", Help: "Whether the last attempt to read the configuration took; 0: what was in force before still is.",
		}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "chancery_config_last_reload_success_timestamp_seconds", Help: "When the configuration in force was read, in Unix time.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_reloads_total", Help: "Configuration reloads, by outcome.",
		}, []string{"outcome"}),
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chancery_lifecycle_steps_total", Help: "Lifecycle steps entered in the log, by action.",
		}, []string{"action"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "chancery_build_info", Help: "Always 1; the version is its label.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.reloaded.Set(1) // a start is the first reload
	m.loaded.SetToCurrentTime()
	m.registry.MustRegister(m.requests, m.handshake, m.full, m.reloads, m.reloaded, m.loaded, m.steps, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Gauge registers a gauge that is read when it is asked for. read must answer
// at once. labels are constant.
func (m *Metrics) Gauge(name, help string, labels map[string]string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Counter registers a counter that is read when it is asked for, as Gauge does.
func (m *Metrics) Counter(name, help string, labels map[string]string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

// Request counts one answered request.
func (m *Metrics) Request(route, code string, took time.Duration) {
	m.requests.WithLabelValues(route, code).Observe(took.Seconds())
}

// HandshakeFailed counts one failed handshake.
func (m *Metrics) HandshakeFailed() { m.handshake.Inc() }

// ConnectionsBounded has the count for a limit of a door begin at 0.
func (m *Metrics) ConnectionsBounded(door, limit string) { m.full.WithLabelValues(door, limit) }

// ConnectionRefused counts one connection that was closed because a door was full. Both
// labels are names of ours.
func (m *Metrics) ConnectionRefused(door, limit string) { m.full.WithLabelValues(door, limit).Inc() }

// Reloaded counts one reload; ok tells whether it took.
func (m *Metrics) Reloaded(ok bool) {
	outcome, successful := "failed", 0.0
	if ok {
		outcome, successful = "ok", 1
		m.loaded.SetToCurrentTime()
	}
	m.reloaded.Set(successful)
	m.reloads.WithLabelValues(outcome).Inc()
}

// Step counts one lifecycle step.
func (m *Metrics) Step(action string) { m.steps.WithLabelValues(action).Inc() }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
