package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A sample is what chancery bench --json says of one run: the members that are used.
type sample struct {
	Layer    string  `json:"layer"`
	Rate     float64 `json:"rate"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	OfBound  float64 `json:"of_bound"`
	Refused  int64   `json:"refused"`
	Requests int64   `json:"requests"`
	CPU      *struct {
		Daemon  float64 `json:"daemon_us"`
		Workers float64 `json:"workers_us"`
	} `json:"cpu"`
	PSS *struct {
		Daemon  int64 `json:"daemon_kb"`
		Workers int64 `json:"workers_kb"`
	} `json:"pss"`
}

type samples struct {
	Descriptors int      `json:"descriptors"`
	Slow        int      `json:"slow"`
	Results     []sample `json:"results"`
	Notes       []string `json:"notes"`
	First       float64  `json:"first_signature_ms"`
}

// one returns the result of the layer, or the note that says why there is none.
func (s samples) one(layer string) (sample, error) {
	for _, r := range s.Results {
		if r.Layer == layer {
			return r, nil
		}
	}
	if len(s.Notes) > 0 {
		return sample{}, errors.New(s.Notes[0])
	}
	return sample{}, fmt.Errorf("bench says nothing of %s", layer)
}

// A side is one of two that are compared: arguments of chancery, and the layer that
// counts of what it measures.
type side struct {
	name, layer string
	args        []string
	err         error // why it cannot be measured
}

func (b *bencher) ask(ctx context.Context, s side) (sample, error) {
	if s.err != nil {
		return sample{}, s.err
	}
	all, err := b.chanceryBench(ctx, s.args...)
	if err != nil {
		return sample{}, err
	}
	return all.one(s.layer)
}

// chanceryBench runs the command and reads what it prints.
func (b *bencher) chanceryBench(ctx context.Context, args ...string) (all samples, err error) {
	cmd := exec.CommandContext(ctx, b.chancery, append([]string{"--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(stderr.String()), "error: "), "\n")
		return all, fmt.Errorf("%w: %s", err, first)
	}
	return all, json.Unmarshal(out, &all)
}

// at returns the arguments that name a daemon of a development directory. Over TCP
// it is asked as a Vault is; otherwise at its Unix socket. who is the client.
func (b *bencher) at(dir, who string, tcp bool) ([]string, error) {
	var ends struct{ Socket, API string }
	text, err := os.ReadFile(filepath.Join(dir, "endpoints.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &ends); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(ends.Socket) {
		ends.Socket = filepath.Join(dir, ends.Socket)
	}
	endpoint := "unix:" + ends.Socket
	if tcp {
		endpoint = ends.API
	}
	stem := filepath.Join(dir, "clients", who)
	return []string{"--endpoint", endpoint, "--cert", stem + ".crt", "--key", stem + ".key", "--ca", filepath.Join(dir, "ca.crt")}, nil
}

// timed are the flags of every run.
func (b *bencher) timed(callers int) []string {
	return []string{"--callers", strconv.Itoa(callers), "--duration", b.duration.String(), "--warmup", (b.duration / 5).String()}
}

// daemon is a layer of a chancery by itself. The pid is that of the daemon, whose
// socket says it; over TCP nobody does.
func (b *bencher) daemon(name, dir, layer, keyset string, callers int, tcp bool) side {
	s := side{name: name, layer: layer}
	if dir == "" {
		s.err = errors.New(b.noSampled)
		return s
	}
	at, err := b.at(dir, "issuer", tcp)
	if err != nil {
		s.err = err
		return s
	}
	s.args = append(append(at, "bench", "--layers", layer, "--keyset", keyset, "--bound=false"), b.timed(callers)...)
	if pid, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
		s.args = append(s.args, "--pid", strings.TrimSpace(string(pid)))
	}
	return s
}

// peer is the Vault.
func (b *bencher) peer(kind, key, algorithm string, callers, batch int) side {
	s := side{name: "vault", layer: kind}
	if b.vault == "" {
		s.err = errors.New(b.noVault)
		return s
	}
	at := func(name string) string { return filepath.Join(b.vault, name) }
	var words [2]string
	for i, name := range []string{"address", "pid"} {
		text, err := os.ReadFile(at(name))
		if err != nil {
			s.err = err
			return s
		}
		words[i] = strings.TrimSpace(string(text))
	}
	s.args = append([]string{
		"--endpoint", words[0], "--cert", at("client.crt"), "--key", at("client.key"), "--ca", at("ca.pem"),
		"bench-peer", "--kind", kind, "--key-name", key, "--algorithm", algorithm, "--batch", strconv.Itoa(batch), "--token-file", at("token"), "--pid", words[1],
	}, b.timed(callers)...)
	return s
}

// certificates is a chancery's authority.
func (b *bencher) certificates(callers int) side {
	s := side{name: "chancery", layer: "csr"}
	at, err := b.at(b.all, "ca", true)
	if err != nil {
		s.err = err
		return s
	}
	s.args = append(append(at, "bench-peer", "--kind", "csr", "--key-name", "devices/tls"), b.timed(callers)...)
	return s
}

// startWithin bounds one start of a daemon.
const startWithin = 3 * time.Minute
