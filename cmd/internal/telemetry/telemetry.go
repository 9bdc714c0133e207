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
	reloads   *prometheus.CounterVec
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
	m.registry.MustRegister(m.requests, m.handshake, m.reloads, m.steps, info,
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

// Reloaded counts one reload; ok tells whether it took.
func (m *Metrics) Reloaded(ok bool) {
	outcome := "failed"
	if ok {
		outcome = "ok"
	}
	m.reloads.WithLabelValues(outcome).Inc()
}

// Step counts one lifecycle step.
func (m *Metrics) Step(action string) { m.steps.WithLabelValues(action).Inc() }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
