package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// A vaultEnd is one row of the fault matrix about a key that is destroyed.
type vaultEnd struct {
	row          string
	allow, end   transittest.Rule // for the request that allows its deletion, and for that which deletes it
	again        bool             // it is not gone, and has to be asked for once more
	allows, ends int              // how often each is asked for in all
}

var vaultEnds = []vaultEnd{
	{row: "V04 allowed, the connection cut", allow: transittest.Rule{Drop: true}, allows: 1, ends: 1},
	{row: "V04 deleted, the connection cut", end: transittest.Rule{Drop: true}, allows: 1, ends: 1},
	{row: "V04 allowed and deleted, answered 502", allow: transittest.Rule{StatusAfter: 502}, end: transittest.Rule{StatusAfter: 502}, allows: 1, ends: 1},
	{row: "V04 allowed and deleted, the connections cut", allow: transittest.Rule{Drop: true}, end: transittest.Rule{Drop: true}, allows: 1, ends: 1},
	{row: "V04 not deleted, the connection cut", end: transittest.Rule{Refuse: true}, again: true, allows: 2, ends: 2},
	{row: "V04 not allowed, answered 502", allow: transittest.Rule{Status: 502}, again: true, allows: 2, ends: 2},
}

// ending has a retired version be destroyed under a fault, and judges what came of
// it: Vault is asked once by each request, and the key is gone when it is said to be.
func (f *faked) ending(t *testing.T, v vaultEnd) {
	t.Helper()
	f.in(t)
	version := f.firstRetired()
	name := f.keyOf(version)
	config, key := "/keys/"+name+"/config$", "/keys/"+name+"$"
	var rules []transittest.Rule
	for path, r := range map[string]transittest.Rule{config: v.allow, key: v.end} {
		r.Path, r.Times = path, 1
		if r.Method = "PUT"; path == key {
			r.Method = "DELETE"
		}
		if r.Drop || r.Refuse || r.Status != 0 || r.StatusAfter != 0 {
			rules = append(rules, r)
		}
	}
	f.fake.Script(rules...)
	destroy := func() (*api.DestroyReply, error) {
		return f.operator.Destroy(t.Context(), "vaulted", api.DestroyRequest{Reason: "a drill", Version: int64(version)})
	}
	done, err := destroy()
	for p, ok := errors.AsType[*api.Problem](err); ok && p.Code == api.CodeTooEarly; p, ok = errors.AsType[*api.Problem](err) {
		time.Sleep(200 * time.Millisecond) // rule 9
		done, err = destroy()
	}
	began := time.Now()
	if v.again {
		if p := wantCode(t, err, api.CodeBackendUnavailable); p.RetryAfter < 1 {
			t.Error("503 without Retry-After")
		}
		if !f.there(name) {
			t.Error("it was taken for there, and is gone")
		}
		done, err = destroy()
	}
	if err != nil || done.State != keystore.Destroyed.String() {
		t.Errorf("%+v, %v", done, err)
	}
	if f.there(name) {
		t.Error("it was taken for gone, and is there")
	}
	if n := f.fake.Count("PUT", config); n != v.allows {
		t.Errorf("its deletion was allowed %d times, want %d", n, v.allows)
	}
	if n := f.fake.Count("DELETE", key); n != v.ends {
		t.Errorf("its deletion was asked for %d times, want %d", n, v.ends)
	}
	if err := f.signs(); err != nil {
		t.Error(err)
	}
	var how []string
	for _, r := range rules {
		how = append(how, strings.ReplaceAll(ruleWords(r), name, "KEY"))
	}
	t.Attr("provoked", strings.Join(how, "; "))
	t.Attr("seen", fmt.Sprintf("allowed %d ×, deleted %d ×, gone by list and reading", v.allows, v.ends))
	t.Attr("recovered", time.Since(began).Round(time.Millisecond).String())
	t.Attr("promises", "I5")
}

// there reports whether the mount has a key.
func (f *faked) there(name string) bool {
	f.t.Helper()
	status, _, err := f.fake.CallAs(f.fake.RootToken(), "GET", f.mount+"/keys/"+name, nil)
	if err != nil || status != 200 && status != 404 {
		f.t.Fatalf("reading key %s: %d, %v", name, status, err)
	}
	return status == 200
}

// firstRetired returns the first retired version of vaulted, when there is one.
func (f *faked) firstRetired() (number int) {
	f.t.Helper()
	f.within(25*time.Second, "a version is retired", func() error {
		for _, v := range f.versions() {
			if v.State == keystore.Retired.String() {
				number = v.Version
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
		return errors.New("none is")
	})
	return number
}
