package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Durations registers a histogram of durations, in seconds, and returns what tells it
// one. labels are constant.
func (m *Metrics) Durations(name, help string, labels map[string]string) func(time.Duration) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, ConstLabels: labels,
		Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
	})
	m.registry.MustRegister(h)
	return func(d time.Duration) { h.Observe(d.Seconds()) }
}
