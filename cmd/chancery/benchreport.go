package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"chancery/cmd/internal/load"
)

// A benchReport is everything that one run of chancery bench found.
type benchReport struct {
	Started  time.Time `json:"started"`
	Cores    int       `json:"cores"`
	Duration float64   `json:"duration_s"`
	Warmup   float64   `json:"warmup_s"`
	Loop     string    `json:"loop"`              // closed, or open
	Offered  float64   `json:"offered,omitempty"` // open: requests that arrived in a second
	Verify   string    `json:"verify"`            // all or sampled, as it was said
	// Slow is how many slow connections the daemon held at the end, and Descriptors
	// how many files it had open then.
	Slow        int64         `json:"slow,omitempty"`
	Descriptors int           `json:"descriptors,omitempty"`
	Results     []measurement `json:"results"`
	Parts       []tokenPart   `json:"parts,omitempty"`
	Notes       []string      `json:"notes,omitempty"` // what is not measured, and why
}

func newReport(f benchFlags) benchReport {
	r := benchReport{
		Started: time.Now().UTC().Truncate(time.Second), Cores: cores(), Duration: f.duration.Seconds(), Warmup: f.warmup.Seconds(),
		Loop: "closed", Offered: f.rate, Verify: f.verify, Results: []measurement{},
	}
	if f.rate > 0 {
		r.Loop = "open"
	}
	return r
}

// compare sets each result's ratio to the best raw rate of its algorithm.
func (r *benchReport) compare() {
	raw := map[string]float64{}
	for _, m := range r.Results {
		if m.Layer == layerRaw {
			raw[m.Algorithm] = max(raw[m.Algorithm], m.Rate)
		}
	}
	for i, m := range r.Results {
		if best := raw[m.Algorithm]; best > 0 {
			r.Results[i].Ratio = m.Rate / best
		}
	}
}

func (a *app) printBench(r benchReport, histogram bool) error {
	var rows [][]string
	refused, unanswered, daemons := int64(0), int64(0), 0
	for _, m := range r.Results {
		rows = append(rows, benchRow(m))
		for _, p := range m.Parts {
			rows = append(rows, benchRow(measurement{
				Layer: "  " + p.Layer, Algorithm: p.Algorithm, Callers: m.Callers, Batch: p.Batch, Rate: p.Rate, Latency: p.Latency,
			}))
		}
		refused += m.Refused
		unanswered += m.Unanswered
		if m.below() {
			continue
		}
		daemons++
	}
	a.printTable([]string{"layer", "algorithm", "callers", "signatures/s", "p50", "p99", "of best raw", "of bound", "CPU µs: client, daemon, workers"}, rows)
	a.printParts(r)
	for _, m := range r.Results {
		if m.below() || !histogram && daemons > 1 {
			continue
		}
		a.printf("\n%s, %s callers\n", layerName(m), strconv.Itoa(m.Callers))
		if err := m.Latency.Print(a.out, 40, false); err != nil {
			return err
		}
	}
	if memory := r.memory(); memory != nil {
		a.printf("memory (PSS): daemon %s kB, %s other processes of it %s kB\n",
			strconv.FormatInt(memory.Daemon, 10), strconv.Itoa(memory.Count), strconv.FormatInt(memory.Workers, 10))
	}
	if r.Slow > 0 {
		a.printf("%s slow connections meanwhile; %s open files\n", strconv.FormatInt(r.Slow, 10), strconv.Itoa(r.Descriptors))
	}
	if refused > 0 {
		a.printf("%s requests were told to come back later\n", strconv.FormatInt(refused, 10))
	}
	if unanswered > 0 {
		a.printf("%s requests arrived and were never asked: the daemon is too far behind\n", strconv.FormatInt(unanswered, 10))
	}
	for _, note := range r.Notes {
		fmt.Fprintln(a.err, "warning:", note)
	}
	return nil
}

// below reports whether chanceryd measured it, without a daemon.
func (m measurement) below() bool {
	return m.Layer == layerRaw || m.Layer == layerWorker || m.Layer == "provider"
}

// memory is the last that was read.
func (r benchReport) memory() *load.Memory {
	for i := len(r.Results) - 1; i >= 0; i-- {
		if m := r.Results[i].Memory; m != nil {
			return m
		}
	}
	return nil
}

func layerName(m measurement) string {
	switch {
	case m.Workers > 0:
		return fmt.Sprintf("%s ×%d", m.Layer, m.Workers)
	case m.Batch > 0:
		return fmt.Sprintf("%s of %d", m.Layer, m.Batch)
	}
	return m.Layer
}

func benchRow(m measurement) []string {
	share := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f %%", 100*v)
	}
	cpu := "-"
	if m.CPU != nil {
		cpu = fmt.Sprintf("%.0f, %.0f, %.0f", m.CPU.Client, m.CPU.Daemon, m.CPU.Workers)
	}
	algorithm := m.Algorithm
	if algorithm == "" {
		algorithm = "-"
	}
	return []string{
		layerName(m), algorithm, strconv.Itoa(m.Callers), fmt.Sprintf("%.0f", m.Rate), load.Micros(m.P50), load.Micros(m.P99), share(m.Ratio), share(m.OfBound), cpu,
	}
}

// printParts says how the bounds come about.
func (a *app) printParts(r benchReport) {
	said := map[string]bool{}
	for _, m := range r.Results {
		if m.Bound == 0 {
			continue
		}
		verified, _ := load.Verified(r.Verify, m.Algorithm)
		for _, p := range r.Parts {
			if p.Algorithm != m.Algorithm || p.RPC != protocol(m.Layer) || p.Concurrency != concurrency(m.Callers, m.Batch) {
				continue
			}
			line := fmt.Sprintf("bound of %s, %s, %d callers: %d cores / (sign %.1f + verify %.1f + log %.1f + RPC %.1f µs) = %.0f/s",
				layerName(m), m.Algorithm, m.Callers, r.Cores, p.Sign, verified*p.Verify, p.Log, p.Floor/float64(max(1, m.Batch)), m.Bound)
			if !said[line] {
				a.printf("%s\n", strings.TrimSpace(line))
			}
			said[line] = true
		}
	}
}
