package main

import (
	"cmp"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/keystore/transit/transittest"
	"chancery/signer/api"
)

// A vaultAnswer is one row of the fault matrix about one request for a signature.
type vaultAnswer struct {
	row  string
	rule transittest.Rule // for the active key of vaulted
	good int              // so many tokens come first
	code api.Code         // what the client sees; "": a token
	// The client waits so long at least, and at most (0: 3 s, which is longer than any try); Vault is asked
	// for so many signatures at most by each request (0: it is not counted).
	least, most time.Duration
	asked       int
	down        bool // Vault is taken for down by it
}

// The rows about one request. Each group has a daemon of its own.
var vaultAnswers = map[string][]vaultAnswer{
	"refusals": {
		{row: "V02 a quota, over in a second", rule: limited("1", 1), least: time.Second, most: 2500 * time.Millisecond, asked: 2},
		{row: "V02 a quota, over in a minute", rule: limited("60", 0), code: api.CodeOverloaded, asked: 1},
		{row: "V02 a quota that does not say until when", rule: limited("", 0), code: api.CodeOverloaded, asked: 1},
		{row: "V03 a node behind the others", rule: transittest.Rule{Status: 412, Times: 3}, least: 350 * time.Millisecond, asked: 4},
		{row: "V03 a node behind the others for ever", rule: transittest.Rule{Status: 412}, code: api.CodeBackendUnavailable,
			most: 6500 * time.Millisecond, asked: 7},
		{row: "V12 one connection is cut", rule: transittest.Rule{Refuse: true, Times: 1}, asked: 2},
		{row: "V12 one answer is lost", rule: transittest.Rule{Drop: true, Times: 1}, asked: 2},
		{row: "V12 one answer is 502", rule: transittest.Rule{StatusAfter: 502, Times: 1}, asked: 2},
		{row: "V12 one key fails", rule: transittest.Rule{Status: 500}, code: api.CodeBackendUnavailable, asked: 2},
		{row: "V12 one key's answers are no JSON", rule: transittest.Rule{Status: 200, Body: "<html>"}, code: api.CodeBackendUnavailable, asked: 2},
		{row: "V12 one answer does not come", rule: transittest.Rule{Hang: true, Times: 1}, code: api.CodeBackendUnavailable,
			least: 2 * time.Second, most: 3 * time.Second, asked: 1, down: true},
	},
	"signatures": {
		{row: "V05 by version 2", rule: results(func(r map[string]any) { r["key_version"] = 2.0 }), code: api.CodeSignatureInvalid},
		{row: "V05 by version 2, it says itself", rule: results(func(r map[string]any) {
			r["signature"] = strings.Replace(r["signature"].(string), "vault:v1:", "vault:v2:", 1)
		}), code: api.CodeSignatureInvalid},
		{row: "V14 a bit is wrong", rule: signature(func(b []byte) []byte { b[20] ^= 1; return b }), code: api.CodeSignatureInvalid},
		{row: "V14 in DER", rule: signature(inDER), code: api.CodeSignatureInvalid},
		{row: "V14 in DER, in the other base64", rule: results(func(r map[string]any) {
			r["signature"] = signaturePrefix + base64.StdEncoding.EncodeToString(inDER(signatureOf(r)))
		}), code: api.CodeSignatureInvalid},
		{row: "V14 in the other base64", rule: results(func(r map[string]any) {
			r["signature"] = signaturePrefix + base64.StdEncoding.EncodeToString(signatureOf(r))
		}), code: api.CodeSignatureInvalid},
		{row: "V14 too short", rule: signature(func(b []byte) []byte { return b[:63] }), code: api.CodeSignatureInvalid},
		{row: "V14 too long", rule: signature(func(b []byte) []byte { return append(b, 0) }), code: api.CodeSignatureInvalid},
		{row: "V14 of zeros", rule: signature(func(b []byte) []byte { return make([]byte, len(b)) }), code: api.CodeSignatureInvalid},
		{row: "V14 of another message", rule: signature(theFirst()), good: 1, code: api.CodeSignatureInvalid},
		{row: "V14 empty", rule: results(func(r map[string]any) { r["signature"] = "" }), code: api.CodeSignatureInvalid},
		{row: "V14 none", rule: transittest.Rule{Mangle: func(reply map[string]any) {
			reply["data"] = map[string]any{"batch_results": []any{}}
		}}, code: api.CodeBackendUnavailable},
		{row: "V14 one too many", rule: transittest.Rule{Mangle: func(reply map[string]any) {
			data := reply["data"].(map[string]any)
			all := data["batch_results"].([]any)
			data["batch_results"] = append(all, all[0])
		}}, code: api.CodeBackendUnavailable},
	},
}

func TestVaultAnswers(t *testing.T) {
	groups := map[string]func(*testing.T){}
	for name, group := range vaultAnswers {
		groups[name] = func(t *testing.T) {
			f := newFaked(t)
			for _, v := range group {
				t.Run(v.row, func(t *testing.T) { f.answer(t, v) })
			}
			f.end()
		}
	}
	abreast(t, groups)
}

// answer has Vault answer so for the active key, and judges what a client sees of
// it and what Vault is asked.
func (f *faked) answer(t *testing.T, v vaultAnswer) {
	t.Helper()
	f.in(t)
	key, before, began := f.keyOf(1), len(f.others.all()), time.Now()
	v.rule.Path = "/sign/" + key + "$"
	asked := f.fake.Count("", v.rule.Path)
	f.fake.Script(v.rule)
	for range v.good {
		if err := f.signs(); err != nil {
			t.Error(err)
		}
	}
	requests := 3
	if v.rule.Times > 0 || v.most > 0 {
		requests = 1
	}
	for range requests {
		sent := time.Now()
		err := f.signs()
		if took := time.Since(sent); took < v.least || took > cmp.Or(v.most, 3*time.Second) {
			t.Errorf("the client waited %v", took)
		}
		f.wantAnswer(t, err, v.code)
	}
	if n := f.fake.Count("", v.rule.Path) - asked; v.asked > 0 && n > v.asked*requests {
		t.Errorf("Vault was asked for a signature %d times by %d requests, want %d each at most", n, requests, v.asked)
	}
	f.fake.Script()
	ended := time.Now()
	f.within(backWithin, "vaulted signs", f.signs)
	t.Attr("recovered", time.Since(ended).Round(time.Millisecond).String())
	if v.down {
		f.awaitState(keystore.TokenReady)
	} else if states := f.states(began); len(states) > 0 {
		t.Errorf("the mount was %q meanwhile", states)
	}
	f.othersUnharmed(t, before)
	v.rule.Path = "sign/KEY"
	t.Attr("provoked", ruleWords(v.rule))
	t.Attr("seen", fmt.Sprintf("%d × %s", requests, cmp.Or(string(v.code), "200")))
	t.Attr("promises", "I2 I6 I16")
}

// wantAnswer judges what a client was answered. A signature that is none is in the
// log.
func (f *faked) wantAnswer(t *testing.T, err error, want api.Code) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if p := wantCode(t, err, want); p.RetryAfter < 1 && want != api.CodeSignatureInvalid {
		t.Errorf("%s without Retry-After", p.Code)
	}
	if want != api.CodeSignatureInvalid {
		return
	}
	f.within(5*time.Second, "the log has the refusal", func() error {
		for _, e := range f.logged(audit.Filter{Log: "acts", Action: keystore.ActSignJWT, Outcome: keystore.OutcomeFailed}) {
			if e.KeySet == "vaulted" && e.Code == string(want) {
				return nil
			}
		}
		return errors.New("it has not")
	})
}

// signaturePrefix begins what Vault calls a signature by a key's version 1.
const signaturePrefix = "vault:v1:"

func limited(after string, times int) transittest.Rule {
	r := transittest.Rule{Status: http.StatusTooManyRequests, Times: times}
	if after != "" {
		r.Header = map[string]string{"Retry-After": after}
	}
	return r
}

// results has each signature of an answer changed.
func results(change func(map[string]any)) transittest.Rule {
	return transittest.Rule{Mangle: func(reply map[string]any) {
		for _, r := range reply["data"].(map[string]any)["batch_results"].([]any) {
			change(r.(map[string]any))
		}
	}}
}

// signature has the bytes of each signature of an answer changed.
func signature(change func([]byte) []byte) transittest.Rule {
	return results(func(r map[string]any) {
		r["signature"] = signaturePrefix + base64.RawURLEncoding.EncodeToString(change(signatureOf(r)))
	})
}

func signatureOf(result map[string]any) []byte {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(result["signature"].(string), signaturePrefix))
	if err != nil || len(b) != 64 {
		panic(fmt.Sprintf("%v is no signature of ES256", result))
	}
	return b
}

func inDER(b []byte) []byte {
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(b[:32]), new(big.Int).SetBytes(b[32:])})
	if err != nil {
		panic(err)
	}
	return der
}

// theFirst gives for every signature the first one.
func theFirst() func([]byte) []byte {
	var mu sync.Mutex
	var first []byte
	return func(b []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = b
		}
		return first
	}
}
