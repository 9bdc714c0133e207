package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/cmd/internal/load"
)

type peerFlags struct {
	benchFlags
	kind, algorithm             string
	tokenFile, mount, key, name string
}

// benchPeerCommand is for scripts/bench: the same callers at another product, or at
// what chancery bench does not ask for.
func (a *app) benchPeerCommand() *cobra.Command {
	f := peerFlags{}
	var callers int
	c := &cobra.Command{
		Use: "bench-peer", Hidden: true, Args: noArgs,
		Short: "Measure a Vault, or certificates, with the callers of bench",
		Long:  "Measure signatures a second of a Vault's Transit, certificates of its pki, or certificates\nof a chancery, by HTTP/1.1, each caller on a connection of its own.",
	}
	fs := c.Flags()
	fs.StringVar(&f.kind, "kind", "transit", "transit, pki, or csr: certificates of a chancery")
	fs.IntVar(&callers, "callers", 16, "how many ask at a time")
	fs.DurationVar(&f.duration, "duration", 2*time.Second, "how long it is measured")
	fs.DurationVar(&f.warmup, "warmup", 400*time.Millisecond, "before it")
	fs.IntVar(&f.batch, "batch", 0, "transit: signatures in a request, by batch_input")
	fs.IntVar(&f.pid, "pid", 0, "the server's process")
	fs.StringVar(&f.algorithm, "algorithm", "ES256", "transit: the key's")
	fs.StringVar(&f.tokenFile, "token-file", "", "the file with the Vault's token")
	fs.StringVar(&f.mount, "mount", "", "the engine (default: as --kind)")
	fs.StringVar(&f.key, "key-name", "", "transit: the key; pki: the role; csr: AUTHORITY/PROFILE")
	fs.StringVar(&f.name, "name", "bench.devices.test", "pki, csr: the DNS name in the certificate")
	c.RunE = does(func(ctx context.Context, _ []string) error {
		f.callers = []int{callers}
		return a.benchPeer(ctx, f)
	})
	return c
}

func (a *app) benchPeer(ctx context.Context, f peerFlags) error {
	role := roleIssuer
	if f.kind == "csr" {
		role = roleCA
	}
	cfg, _, err := a.settings(role)
	if err != nil {
		return err
	}
	at, err := newBenchTarget(ctx, cfg, f.pid)
	if err != nil {
		return err
	}
	request, err := f.request(ctx)
	if err != nil {
		return err
	}
	ways, err := load.OpenRequest(ctx, at.Target, request, f.callers[0])
	if err != nil {
		return err
	}
	defer load.Close(ways)
	if err := askOnce(ways); err != nil {
		return err
	}
	w := &usageWatch{family: at.family}
	o, err := load.Run(ctx, load.Plan{Callers: ways, Weights: []int{1}, Warmup: f.warmup, Duration: f.duration, Edge: w.edge})
	if err != nil {
		return err
	}
	b := &bench{benchFlags: f.benchFlags, algorithms: map[string]string{"": f.algorithm}, at: at, report: newReport(f.benchFlags)}
	b.note("CPU time and memory of the server", at.unseen)
	m := b.resultOf(load.Mix{{Layer: load.JSON, Batch: f.batch, Weight: 1}}, f.callers[0], o, w)
	m.Layer = f.kind
	b.report.Results = append(b.report.Results, m)
	if a.json {
		return json.NewEncoder(a.out).Encode(b.report)
	}
	return a.printBench(b.report, f.histogram)
}

func (f peerFlags) request(ctx context.Context) (load.Request, error) {
	var token []byte
	if f.kind != "csr" {
		var err error
		if token, err = readFile(ctx, f.tokenFile, largestPublished); err != nil {
			return load.Request{}, fmt.Errorf("reading the Vault's token: %w", err)
		}
	}
	mount := f.mount
	if mount == "" {
		mount = f.kind
	}
	v := load.Vault{Token: strings.TrimSpace(string(token)), Mount: mount, Key: f.key}
	if f.kind == "transit" {
		return v.Sign(f.algorithm, f.batch), nil
	}
	csr, err := newCSR(f.name)
	if err != nil {
		return load.Request{}, err
	}
	switch f.kind {
	case "pki":
		return v.SignCSR(f.name, csr), nil
	case "csr":
		authority, profile, _ := strings.Cut(f.key, "/")
		return load.CSRRequest(authority, profile, csr), nil
	}
	return load.Request{}, usagef("bench-peer: --kind %s: transit, pki or csr", f.kind)
}

// newCSR makes a certificate request for a DNS name, with a key that is forgotten.
func newCSR(name string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
