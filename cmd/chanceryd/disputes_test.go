package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/catalog"
)

func TestKIDsOfAPublishedSet(t *testing.T) {
	for body, want := range map[string][]keystore.KID{
		"": {}, `{"keys":[]}`: {}, `{"keys":[{"kid":"a","alg":"ES256"},{"kid":"b"}]}`: {"a", "b"},
	} {
		if got, err := kidsIn([]byte(body)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", body, got, err)
		}
	}
	if _, err := kidsIn([]byte(`{`)); err == nil {
		t.Error("what is no set was read")
	}
}

// What is not published in time is not compared.
func TestASnapshotIsAwaited(t *testing.T) {
	p := &publisher{kick: make(chan struct{}, 1)}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p.reached.Store(6)
	if p.reach(ended, 7) {
		t.Error("revision 7 is not published")
	}
	go func() { <-p.kick; p.reached.Store(8) }()
	if !p.reach(t.Context(), 7) {
		t.Error("revision 8 is published")
	}
}

// Someone wrote to the catalog beside Chancery, as well as it would have: only the
// log tells.
func TestACatalogThatContradictsTheLog(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	d.keySets() // every successor is published
	d.wantFindings(d.client("operator"))
	d.stop()
	c, err := catalog.Open(t.Context(), catalog.Config{Path: filepath.Join(d.dir, "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Update(t.Context(), "edge", -1, func(at keystore.Moment, ks *keystore.KeySet) ([]keystore.Record, error) {
		v := ks.InState(keystore.Published)[0]
		v.State, v.RetiredAt = keystore.Retired, at.Now
		v.Compromised = &keystore.Fact{At: at.Now, By: "nobody", Reason: "none"}
		return nil, nil
	})
	if err := errors.Join(err, c.Close()); err != nil {
		t.Fatal(err)
	}
	d = startDev(t, d.dir)
	found := d.wantFindings(d.client("operator"), "log_state").Findings[0]
	if found.KeySet != "edge" || found.Version != 2 || found.Keystore != "hsm" || found.Entry == "" || found.Todo == "" ||
		!strings.HasPrefix(found.What, "the catalog says that it is retired, and the log that it is published (") {
		t.Errorf("%+v", found)
	}
	if _, metrics := d.get(d.endpoints.Admin + "/metrics"); !strings.Contains(metrics, "chancery_disputed_versions 1\n") {
		t.Error("the metrics do not have it")
	}
	d.within(20*time.Second, "it was found at the start", func() error {
		if !strings.Contains(d.log.String(), "log, catalog and published set do not agree") {
			return errors.New("not yet")
		}
		return nil
	})
	d.stop()
	if n := len(d.logged(audit.Filter{Log: "lifecycle", Action: keystore.ActKeyDisputed})); n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

// The entry of a dispute is no step of the catalog's: a start that asked the catalog
// for it would take it for an older copy.
func TestADisputeIsNoStep(t *testing.T) {
	var r remembered
	for id, action := range []keystore.Action{keystore.ActKeyActivate, keystore.ActKeyDisputed} {
		r.add(keystore.Record{ID: fmt.Sprint(id), Action: action, KeySet: "web"})
	}
	if r.last.Action != keystore.ActKeyActivate {
		t.Errorf("the last step is %+v", r.last)
	}
}
