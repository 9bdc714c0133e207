package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"chancery/keystore/audit"
	"chancery/keystore/audit/witness"
)

// witnessFlags are what `audit witness` is told.
type witnessFlags struct {
	listen, state, name, once, out string
	logs                           []string
}

func (a *app) auditWitnessCommand() *cobra.Command {
	var f witnessFlags
	c := &cobra.Command{
		Use:   "witness --dir STATE --log VKEY (--listen ADDR | --once LOGDIR|URL)",
		Short: "Be a witness: sign that a log grows and never changes",
		Long: "Be a witness of logs: sign each checkpoint that is consistent with the one before (C2SP\n" +
			"tlog-witness), so that no log can be edited, cut or shown to you in another form without\n" +
			"lacking your signature. Run it where the log's operator has no say. It needs no entries\n" +
			"and learns nothing but sizes and hashes.\n\n" +
			"With --listen it serves until it is ended, plainly on loopback only, elsewhere with --cert\n" +
			"and --key. It prints the lines that the daemon's witness policy (C2SP tlog-policy) needs.\n\n" +
			"With --once it looks at a log itself, once: a directory, or the URL of a node's public log,\n" +
			"https://HOST/audit/NODE (lifecycle, this month and the last; older months are closed in\n" +
			"lifecycle). It writes the cosigned checkpoints to files that `audit verify --checkpoint FILE\n" +
			"--witness VKEY` takes, and exits with 1 if a log contradicts what it cosigned before. If it\n" +
			"ever showed another tree of a size that was cosigned, both checkpoints are kept, and each\n" +
			"look tells of them and exits with 1 until the other one is taken away.\n\n" +
			"The key is made at the first start, which needs --name. STATE is all that the witness\n" +
			"remembers: without it, it would sign another log as if it were new. Keep it, and use it\n" +
			"in one place only.",
		Example: "  chancery audit witness --dir /var/lib/witness --name auditor.example/w1 --log @audit.vkey --listen 127.0.0.1:7380\n" +
			"  chancery audit witness --dir ~/witness --name alice.example/laptop --log @audit.vkey --once https://keys.example/audit/node-1",
		Args: noArgs,
	}
	c.Flags().StringVar(&f.listen, "listen", "", "serve at this address, HOST:PORT")
	c.Flags().StringVar(&f.once, "once", "", "look once at the logs in this directory or at this URL")
	c.Flags().StringVar(&f.state, "dir", "", "the witness's key and memory; made if missing")
	c.Flags().StringVar(&f.name, "name", "", "what a new witness is called: a URL without scheme, such as auditor.example/w1")
	c.Flags().StringArrayVar(&f.logs, "log", nil, "log key (signed-note verifier key) whose logs it cosigns, or @FILE or FILE with them")
	c.Flags().StringVar(&f.out, "out", "", "with --once: directory for the cosigned checkpoints (default STATE/cosigned)")
	c.RunE = does(func(ctx context.Context, _ []string) error { return a.witness(ctx, f) })
	return c
}

func (a *app) witness(ctx context.Context, f witnessFlags) error {
	switch {
	case (f.listen == "") == (f.once == ""):
		return usagef("audit witness: either --listen ADDR or --once LOGDIR|URL")
	case f.out != "" && f.once == "":
		return usagef("audit witness: --out is for --once: with --listen those who ask get what is cosigned")
	case f.state == "":
		return usagef("audit witness: where does it remember? --dir STATE")
	case len(f.logs) == 0:
		return usagef("audit witness: whose logs? --log VKEY")
	case f.name == "" && !exists(filepath.Join(f.state, "key")):
		return usagef("audit witness: a new witness needs a name: --name HOST/NAME")
	case f.listen == "" && a.cert+a.key != "":
		return usagef("audit witness: --cert and --key are for --listen: what is published is read without a certificate")
	case f.listen != "" && (a.cert == "") != (a.key == ""):
		return usagef("audit witness: --cert and --key belong together")
	case f.listen != "" && a.cert == "" && !isLoopback(f.listen):
		return usagef("audit witness: %s is not loopback: give --cert and --key", f.listen)
	}
	keys, err := a.witnessLogs(ctx, f.logs)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.err, nil))
	s, err := witness.OpenServer(witness.ServerConfig{Dir: f.state, Name: f.name, Logs: keys, Log: log})
	if err != nil {
		return fmt.Errorf("opening the witness: %w", err)
	}
	defer s.Close()
	if f.once != "" {
		return a.witnessOnce(ctx, s, f)
	}
	splits, err := s.Splits()
	if err != nil {
		log.Error("not every split that stands could be read", "err", err)
	}
	for _, x := range splits {
		log.Error("a split of a log stands", "origin", x.Origin, "size", x.Size, "cosigned", x.Cosigned, "other", x.Other)
	}
	return a.serveWitness(ctx, s, f)
}

func (a *app) witnessLogs(ctx context.Context, args []string) ([]note.Verifier, error) {
	vkeys, err := a.logKeys(ctx, args)
	if err != nil {
		return nil, err
	}
	return verifiersOf(vkeys)
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// How long a caller of the witness may take, and how long the witness waits for
// callers when it ends.
const (
	witnessPatience = 10 * time.Second
	witnessFarewell = 5 * time.Second
)

func (a *app) serveWitness(ctx context.Context, s *witness.Server, f witnessFlags) error {
	scheme := "http"
	var secure *tls.Config
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.cert, a.key)
		if err != nil {
			return fmt.Errorf("reading the witness's certificate: %w", err)
		}
		scheme, secure = "https", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("serving as a witness: %w", err)
	}
	url := scheme + "://" + l.Addr().String()
	if err := a.printWitness(s.Key(), url); err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{
		Handler: s, TLSConfig: secure, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ReadTimeout: witnessPatience, WriteTimeout: witnessPatience, IdleTimeout: 2 * time.Minute,
	}
	served := make(chan error, 1)
	go func() {
		if secure != nil {
			served <- server.ServeTLS(l, "", "")
		} else {
			served <- server.Serve(l)
		}
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serving as a witness: %w", err)
	case <-ctx.Done():
	}
	farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), witnessFarewell)
	defer cancel()
	err = server.Shutdown(farewell)
	<-served // http.ErrServerClosed
	return err
}

// printWitness prints the witness's key, and what its logs' daemon needs.
func (a *app) printWitness(key audit.WitnessKey, url string) error {
	word := strings.Map(func(r rune) rune {
		if r == '/' || r == ':' {
			return '-'
		}
		return r
	}, key.Name())
	policy := fmt.Sprintf("witness %s %s %s\nquorum %s\n", word, key.VKey(), url, word)
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]string{"vkey": key.VKey(), "url": url, "policy": policy})
	}
	a.printf("# The policy of this witness alone, all lines: for audit.witnesses.policy of the daemon's configuration, and verify --witness.\n")
	a.printf("# key %s\n# serves %s\n", key.VKey(), url)
	for line := range strings.Lines(policy) {
		a.printf("%s\n", strings.TrimSuffix(line, "\n"))
	}
	return nil
}

// witnessOnce visits each log and writes what it cosigned. One log that
// contradicts keeps no other from being visited.
func (a *app) witnessOnce(ctx context.Context, s *witness.Server, f witnessFlags) error {
	logs, err := a.onceLogs(f.once)
	if err != nil {
		return err
	}
	out := f.out
	if out == "" {
		out = filepath.Join(f.state, "cosigned")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("making a place for what is cosigned: %w", err)
	}
	var visits []cosignedFile
	var errs []error
	for _, log := range logs {
		v, err := s.Visit(ctx, log.read)
		if errors.Is(err, fs.ErrNotExist) && log.optional {
			continue
		}
		if err != nil && ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("%s: stopped: %w", log.name, context.Cause(ctx)))
			break
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", log.name, err))
			continue
		}
		path := filepath.Join(out, strings.NewReplacer("/", "_", ":", "_").Replace(v.Origin)+".checkpoint")
		if err := os.WriteFile(path, v.Signed, 0o644); err != nil {
			return fmt.Errorf("writing a cosigned checkpoint: %w", err)
		}
		visits = append(visits, cosignedFile{v.Origin, v.Before, v.Size, path})
	}
	splits, err := s.Splits() // those of this look as well
	errs = append(errs, err)
	if err := a.printVisits(s.Key(), visits, splits); err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil || len(splits) == 0 {
		return err
	}
	return errFound
}

// A cosignedFile tells of one checkpoint that was cosigned.
type cosignedFile struct {
	Origin string `json:"origin"`
	Before int64  `json:"before"`
	Size   int64  `json:"size"`
	File   string `json:"file"`
}

func (a *app) printVisits(key audit.WitnessKey, visits []cosignedFile, splits []witness.Split) error {
	if len(splits) > 0 {
		fmt.Fprintln(a.err, "hint: a split stands until its second file is moved out of the witness's directory: ask the log's operator, and keep both files, which prove it to whoever has the log key")
	}
	if a.json {
		all := map[string]any{"vkey": key.VKey(), "cosigned": append([]cosignedFile{}, visits...)}
		if len(splits) > 0 {
			all["splits"] = splits
		}
		return json.NewEncoder(a.out).Encode(all)
	}
	a.printf("witness %s\n", key.VKey())
	for _, v := range visits {
		before := "for the first time"
		if v.Before > 0 {
			before = "consistent with the " + count(v.Before, "entry", "entries") + " before"
		}
		a.printf("cosigned %s: %s, %s: %s\n", v.Origin, count(v.Size, "entry", "entries"), before, v.File)
	}
	for _, x := range splits {
		a.printf("split: %s: two trees of %s, each signed by a log key: %s was cosigned, %s was not\n", x.Origin, count(x.Size, "entry", "entries"), x.Cosigned, x.Other)
	}
	return nil
}

// A visited is a log that --once looks at.
type visited struct {
	name     string
	read     func(ctx context.Context, name string) ([]byte, error)
	optional bool // it need not be there
}

// onceLogs returns the logs in the audit directory or at the URL that is given.
func (a *app) onceLogs(at string) ([]visited, error) {
	if !strings.Contains(at, "://") {
		if err := a.logDirs([]string{at}); err != nil {
			return nil, err
		}
		names, err := audit.LogNames(at)
		if err != nil {
			return nil, err
		}
		var logs []visited
		for i, name := range names {
			logs = append(logs, visited{name, witness.Files(filepath.Join(at, filepath.FromSlash(name))), i > 0})
		}
		return logs, nil
	}
	transport, err := a.publicTransport()
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	this := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var logs []visited
	for _, name := range []string{"lifecycle", "acts/" + this.AddDate(0, -1, 0).Format("2006-01"), "acts/" + this.Format("2006-01")} {
		read, err := witness.Pages(strings.TrimSuffix(at, "/")+"/"+name, transport)
		if err != nil {
			return nil, usagef("audit witness: %v", err)
		}
		logs = append(logs, visited{name, read, name != "lifecycle"})
	}
	return logs, nil
}
