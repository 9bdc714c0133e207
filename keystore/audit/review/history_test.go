package review

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
)

// born is when the histories of the tests begin.
var born = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	operator = "dev:spiffe:spiffe://chancery.dev/operator"
	issuer   = "dev:spiffe:spiffe://chancery.dev/issuer"
)

// A history is a log as a test tells it: A 4 s, S 1 s, L 10 s, one key set.
type history struct {
	node      string
	lifecycle []audit.Located
	acts      []audit.Located
}

func (h *history) at(seconds float64) time.Time {
	return born.Add(time.Duration(seconds * float64(time.Second)))
}

// told enters a record at so many seconds.
func (h *history) told(seconds float64, rec keystore.Record) *history {
	log, list := "lifecycle", &h.lifecycle
	acts := []keystore.Action{keystore.ActSignJWT, keystore.ActSignCSR, keystore.ActSignDigest, keystore.ActSignHistory, keystore.ActKeyUse}
	if slices.Contains(acts, rec.Action) {
		log, list = "acts/2026-03", &h.acts
	}
	rec.Principal = cmp.Or(rec.Principal, "chancery")
	rec.Outcome = cmp.Or(rec.Outcome, keystore.OutcomeDone)
	*list = append(*list, audit.Located{
		Origin: "localhost/audit/" + cmp.Or(h.node, "a") + "/" + log,
		Entry:  audit.Entry{Schema: 1, Sequence: int64(len(*list)), Time: h.at(seconds), Record: rec},
	})
	return h
}

func kid(set string, version int) keystore.KID {
	return keystore.KID(fmt.Sprintf("%s-%d", set, version))
}

// of enters a step of a version of the key set web.
func (h *history) of(seconds float64, version int, action keystore.Action, detail ...string) *history {
	return h.told(seconds, h.step(version, action, detail...))
}

func (h *history) step(version int, action keystore.Action, detail ...string) keystore.Record {
	states := map[keystore.Action]string{
		keystore.ActKeyGenerate: "pending", keystore.ActKeyPublish: "published", keystore.ActKeyActivate: "active",
		keystore.ActKeyRetire: "retiring", keystore.ActKeyRemove: "retired", keystore.ActKeyDestroy: "destroyed", keystore.ActCompromise: "retired",
	}
	rec := keystore.Record{Action: action, KeySet: "web", Version: version, KID: kid("web", version), State: states[action]}
	for i := 0; i < len(detail); i += 2 {
		if rec.Detail == nil {
			rec.Detail = map[string]string{}
		}
		rec.Detail[detail[i]] = detail[i+1]
	}
	return rec
}

// configured enters what the key set promises.
func (h *history) configured(seconds float64, action keystore.Action, cacheFor, skew, maxTTL string) *history {
	return h.told(seconds, keystore.Record{Action: action, KeySet: "web", Detail: map[string]string{
		"purpose": "jwt", "algorithm": "ES256", "cache_for": cacheFor, "skew": skew, "max_ttl": maxTTL,
	}})
}

// made enters the birth of a version: generated, published, proven and served.
func (h *history) made(seconds float64, version int) *history {
	return h.of(seconds, version, keystore.ActKeyGenerate).of(seconds, version, keystore.ActKeyPublish).
		of(seconds, version, keystore.ActKeyProven).of(seconds, version, keystore.ActKeyServed, "node", cmp.Or(h.node, "a"))
}

// signed enters a token that lives for so many seconds.
func (h *history) signed(seconds float64, version int, ttl float64) *history {
	return h.told(seconds, keystore.Record{
		Principal: issuer, Action: keystore.ActSignJWT, KeySet: "web", Version: version, KID: kid("web", version),
		Exp: h.at(seconds + ttl).Unix(), JTI: "token-" + strconv.Itoa(len(h.acts)), Policy: "policy-1",
	})
}

// created begins a history with its key set.
func created() *history {
	return new(history).configured(0, keystore.ActKeySetCreate, "4s", "1s", "10s")
}

// sound is a whole life of a version and its successor.
func sound() *history {
	return created().made(1, 1).of(2, 1, keystore.ActKeyActivate).signed(3, 1, 10).
		made(4, 2).signed(5, 1, 10).
		of(20, 2, keystore.ActKeyActivate).of(20, 1, keystore.ActKeyRetire).signed(21, 2, 10).
		of(31, 1, keystore.ActKeyRemove)
}

// log is the history as Make reads it.
func (h *history) log() Log {
	return func(f audit.Filter) iter.Seq2[audit.Located, error] {
		list := h.lifecycle
		if f.Log == "acts" {
			list = h.acts
		}
		return func(yield func(audit.Located, error) bool) {
			for _, at := range list {
				e := &at.Entry
				wanted := !e.Time.Before(f.Since) && (f.Until.IsZero() || e.Time.Before(f.Until)) &&
					(f.KID == "" || f.KID == e.KID) && (f.KeySet == "" || f.KeySet == e.KeySet)
				if wanted && !yield(at, nil) {
					return
				}
			}
		}
	}
}

// report makes the report of histories, an hour after they begin.
func report(t testing.TB, opt Options, hs ...*history) *Report {
	t.Helper()
	var logs []Log
	for _, h := range hs {
		logs = append(logs, h.log())
	}
	opt.Now = cmp.Or(opt.Now, born.Add(time.Hour))
	r, err := Make(logs, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// without leaves out the entries of an action of a version.
func (h *history) without(version int, action keystore.Action) *history {
	h.lifecycle = slices.DeleteFunc(h.lifecycle, func(at audit.Located) bool {
		return at.Entry.Action == action && at.Entry.Version == version
	})
	return h
}

// verified is what verification of a log would say.
func verified(key bool, problems ...string) *audit.Report {
	r := &audit.Report{KeyVerified: key, Logs: []audit.LogReport{{Name: "lifecycle", Origin: "localhost/audit/a/lifecycle", Entries: 12, Proven: 12, Verified: key}}}
	for _, p := range problems {
		r.Problems = append(r.Problems, audit.Problem{Log: "lifecycle", Index: 3, What: p})
	}
	return r
}
