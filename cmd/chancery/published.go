package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/keystore/audit"
)

// isURL reports whether an argument is where logs are published, not a directory.
func isURL(arg string) bool {
	return strings.HasPrefix(arg, "http://") || strings.HasPrefix(arg, "https://")
}

// urlOf returns the URL that args name, if they name one.
func urlOf(args []string) (base string, ok bool) {
	if len(args) == 1 && isURL(args[0]) {
		return args[0], true
	}
	return "", false
}

// entriesOnly refuses flags that are about entries where only hashes are published:
// what they ask for would go unasked.
func entriesOnly(c *cobra.Command, published bool, flags ...string) error {
	for _, name := range flags {
		if published && c.Flags().Changed(name) {
			return hinted{
				usagef("%s: --%s is about entries, which are not published at a URL", c.CommandPath(), name),
				"give the log's directory, or leave --" + name + " out",
			}
		}
	}
	return nil
}

// A publishedReport is what --json prints of published logs.
type publishedReport struct {
	*audit.Report
	HashesOnly bool `json:"hashes_only"` // entries are not published
}

// verifyPublished verifies the checkpoints and tiles under a node's audit URL.
func (a *app) verifyPublished(ctx context.Context, base string, opt audit.Options, kept []keptCheckpoint) error {
	fetch, err := a.fetcher(base)
	if err != nil {
		return err
	}
	ours, foreign, err := signedByTrusted(kept, given(opt.Keys))
	if err != nil {
		return err
	}
	opt.Kept = texts(ours)
	line := &progressLine{w: a.err, live: isTerminal(a.err)}
	opt.Progress = verifyProgress(line)
	report, err := audit.VerifyPublished(ctx, fetch, opt, time.Now())
	line.wipe()
	if err != nil {
		return fmt.Errorf("verifying what is published at %s: %w", base, err)
	}
	report.Problems = append(report.Problems, foreign...)
	keyed := len(opt.Keys) > 0
	if a.json {
		if err := json.NewEncoder(a.out).Encode(publishedReport{report, true}); err != nil {
			return err
		}
	} else {
		a.printPublished(report, keyed, opt.Witnesses != nil)
	}
	if report.OK() && (opt.Witnesses == nil || len(report.Unwitnessed) == 0) {
		a.hintToKeep(len(opt.Kept), "curl -fO "+strings.TrimSuffix(base, "/")+"/lifecycle/checkpoint")
		return nil
	}
	if !keyed && len(report.Problems) == 0 {
		fmt.Fprintln(a.err, "hint: give the log key, kept outside the log's machine, with --key")
	}
	return errFound
}

func (a *app) printPublished(r *audit.Report, keyed, witnesses bool) {
	var rows [][]string
	for _, l := range r.Logs {
		state := "unverified"
		if l.Verified {
			state = "verified"
		}
		rows = append(rows, []string{l.Origin, strconv.FormatInt(l.Entries, 10), l.Root, l.Key, state})
	}
	a.printTable([]string{"log", "entries", "root", "log key", "signature"}, rows)
	a.printWitnessed(r, witnesses)
	a.printProblems(r)
	if !keyed {
		a.printf("log key: unverified\n")
	}
	a.printf("hashes only: entries are not published, and what they say was not looked at (such as announced keys, closed months, contradicting witnesses)\n")
	a.printf("%s\n", verdict(r, keyed))
}

// hintToKeep tells who verified without a checkpoint from before what that leaves
// open, and how to keep one.
func (a *app) hintToKeep(kept int, how string) {
	if kept == 0 {
		fmt.Fprintln(a.err, "hint: without a checkpoint kept from before, nobody can tell a log that was cut or written anew",
			"by whoever has its key from one that was not: keep this one elsewhere,", clean(how)+",",
			"and give it with --checkpoint next time")
	}
}

// The most of one answer that is read, in bytes.
const largestPublished = 1 << 20

// fetcher fetches from below a node's audit URL.
func (a *app) fetcher(base string) (audit.Fetch, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("%s is not a URL like https://keys.example/audit/NODE", base)
	}
	client, err := a.publicClient()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, path string) ([]byte, error) {
		return fetch(ctx, client, u.JoinPath(path).String())
	}, nil
}

// publicClient asks public listeners. It follows no redirect: what is published stands
// where it stands.
func (a *app) publicClient() (*http.Client, error) {
	transport, err := a.publicTransport()
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// publicTransport reaches public listeners, by TLS 1.2 at least. It trusts the roots of
// --ca, if they are given, and those of the system otherwise.
func (a *app) publicTransport() (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.ca == "" {
		return transport, nil
	}
	pem, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, fmt.Errorf("reading the roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the roots: no certificate in %s", a.ca)
	}
	transport.TLSClientConfig.RootCAs = roots
	return transport, nil
}

func fetch(ctx context.Context, client *http.Client, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() // read only
	switch {
	case res.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", from, fs.ErrNotExist)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s", from, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, largestPublished+1))
	if err == nil && len(b) > largestPublished {
		err = fmt.Errorf("%s is over %d bytes", from, largestPublished)
	}
	return b, err
}
