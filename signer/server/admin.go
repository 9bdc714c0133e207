package server

import (
	"fmt"
	"net/http"
	"strings"
)

// A Check is one condition of readiness.
type Check struct {
	Name string
	// Run returns nil, or what is wrong. It must answer at once from what is
	// known: it never asks a token.
	Run func() error
	// Note returns what is to be known though nothing is wrong, or "". It may be
	// nil, and answers at once too.
	Note func() string
	// Warn returns what is wrong that keeps nobody from signing, since somebody
	// outside does it or says so, or "". It may be nil, and answers at once too.
	Warn func() string
}

// Admin returns the handler of the admin door: /livez, which tells only that
// the process answers; /readyz, which runs the checks and tells each with
// ?verbose: [+] is well, [!] is a warning, which leaves the node ready, [-] failed; and /metrics.
func Admin(checks []Check, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, checks) })
	mux.Handle("GET /metrics", metrics)
	return mux
}

func ready(w http.ResponseWriter, r *http.Request, checks []Check) {
	var lines strings.Builder
	failed := 0
	for _, c := range checks {
		if err := c.Run(); err != nil {
			failed++
			fmt.Fprintf(&lines, "[-]%s failed: %q\n", c.Name, err)
			continue
		}
		if c.Warn != nil {
			if warning := c.Warn(); warning != "" {
				fmt.Fprintf(&lines, "[!]%s warning: %q\n", c.Name, warning)
				continue
			}
		}
		note := ""
		if c.Note != nil {
			note = c.Note()
		}
		if note != "" {
			note = fmt.Sprintf(": %q", note)
		}
		fmt.Fprintf(&lines, "[+]%s ok%s\n", c.Name, note)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if failed > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "%s%d of %d checks failed\n", lines.String(), failed, len(checks))
		return
	}
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, lines.String())
	}
	fmt.Fprintln(w, "ready")
}
