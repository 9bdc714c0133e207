package main

import (
	"path/filepath"
	"testing"
	"time"

	"chancery/keystore/audit/review"
)

// wantByTheRules has the logs of the nodes of one catalog reviewed as an auditor
// does: no rule was broken.
func wantByTheRules(t *testing.T, dirs ...string) {
	t.Helper()
	var logs []review.Log
	for _, dir := range dirs {
		logs = append(logs, review.Dir(t.Context(), filepath.Join(dir, "audit")))
	}
	report, err := review.Make(logs, review.Options{Now: time.Now()})
	if err != nil {
		t.Fatalf("reviewing the log: %v", err)
	}
	for _, d := range report.Deviations {
		if d.Severity == review.Breach {
			t.Errorf("the review: %s version %d, %s: %s (%v)", d.KeySet, d.Version, d.Rule, d.Text, d.Entries)
		}
	}
}
