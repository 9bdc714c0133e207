package main

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/keystore/audit"
	"chancery/signer/api"
)

// The header is built by the daemon alone: the one thing a caller may say of it
// is a type the grant lists.
func TestA01HeaderIsOurs(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("issuer")
	for _, member := range []string{"alg", "kid", "jku", "jwk", "x5u", "x5c", "x5t", "crit", "b64", "cty", "enc", "zip", "header", "anything"} {
		for _, value := range []string{`"none"`, `{"typ":"JWT"}`, `["exp"]`, `false`} {
			body := fmt.Sprintf(`{"keyset":"web","claims":{},%q:%s}`, member, value)
			post(t, c, "/v1/sign/jwt", body).want(t, body, api.CodeMalformed)
		}
	}
	for _, typ := range []string{"jwt", "JWE", "logout+jwt", "JWT ", "at+jwt\u0000", strings.Repeat("x", 5000)} {
		body := fmt.Sprintf(`{"keyset":"web","claims":{},"typ":%s}`, quoted(t, typ))
		post(t, c, "/v1/sign/jwt", body).want(t, body, api.CodeTypNotAllowed)
	}
	r := post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{"alg":"none","kid":"x","crit":["exp"]},"typ":"at+jwt"}`)
	r.want(t, "a type the grant lists", "")
	var header map[string]any
	reply := decodeReply(t, r)
	part, _, _ := strings.Cut(reply.Token, ".")
	if err := json.Unmarshal(unbase64(t, part), &header); err != nil {
		t.Fatal(err)
	}
	if len(header) != 3 || header["alg"] != "ES256" || header["typ"] != "at+jwt" || header["kid"] != reply.KID {
		t.Errorf("header %v", header)
	}
}

func quoted(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func decodeReply(t *testing.T, r result) api.SignJWTReply {
	t.Helper()
	var reply api.SignJWTReply
	if err := json.Unmarshal(r.body, &reply); err != nil || reply.Token == "" {
		t.Fatalf("no token: %s", r.body)
	}
	return reply
}

func unbase64(t *testing.T, part string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Reserved claims are refused and never overwritten, lifetimes refused and
// never clamped; what may be said arrives byte for byte.
func TestA02A03Claims(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("issuer")
	for _, name := range []string{"iss", "iat", "nbf", "exp", "jti", "ISS", "Exp", `\u0069ss`, `e\u0078p`, "i\u017fs"} {
		body := `{"keyset":"web","claims":{"sub":"a","` + name + `":1}}`
		post(t, c, "/v1/sign/jwt", body).want(t, body, api.CodeClaimReserved)
	}
	ok := `"keyset":"web","claims":{"sub":"a"}`
	for _, r := range []struct {
		body string
		code api.Code
	}{
		{`{` + ok + `,"ttl":3601}`, api.CodeTTLTooLong},
		{`{` + ok + `,"ttl":9223372036854775807}`, api.CodeTTLTooLong},
		{`{` + ok + `,"ttl":0}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":-1}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":9223372036854775808}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":1e3}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":60.0}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":"60"}`, api.CodeMalformed},
		{`{` + ok + `,"ttl":null}`, api.CodeMalformed},
		{`{` + ok + `,"keyset":"edge"}`, api.CodeMalformed},
		{`{` + ok + `,"KeySet":"edge"}`, api.CodeMalformed},
		{"{" + ok + ",\"\u212aeyset\":\"edge\"}", api.CodeMalformed},
		{`{"keyset":"web","claims":{"sub":"a","sub":"b"}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{"sub":"a","Sub":"b"}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{"sub":"a","\u0073ub":"b"}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{"a":[{"b":1,"b":2}]}}`, api.CodeMalformed},
		{`{` + ok + `}{}`, api.CodeMalformed},
		{`{` + ok + `} x`, api.CodeMalformed},
		{"\ufeff{" + ok + `}`, api.CodeMalformed},
		{"{\"keyset\":\"web\",\"claims\":{\"a\":\"\xff\"}}", api.CodeMalformed},
		{`{"keyset":"web","claims":{"a":"\ud800"}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":[]}`, api.CodeMalformed},
		{`{"keyset":"web","claims":null}`, api.CodeMalformed},
		{`{"keyset":"web"}`, api.CodeMalformed},
		{`[]`, api.CodeMalformed},
		{``, api.CodeMalformed},
		{`{"keyset":"web","claims":{"a":"` + strings.Repeat("x", 33<<10) + `"}}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{"a":"` + strings.Repeat("x", 20<<10) + `","b":"` + strings.Repeat("x", 20<<10) + `"}}`, api.CodeTooLarge},
	} {
		post(t, c, "/v1/sign/jwt", r.body).want(t, r.body, r.code)
	}
	claims := `{ "n":9007199254740993, "e":1e400,"f":1.0, "u":"\u00e9\ud83d\ude00" ,"aud":["x"],"":{} }`
	reply := decodeReply(t, post(t, c, "/v1/sign/jwt", `{"keyset":"web","ttl":3600,"claims":`+claims+`}`))
	payload := string(unbase64(t, strings.Split(reply.Token, ".")[1]))
	if !strings.HasSuffix(payload, ","+claims[1:]) || !strings.HasPrefix(payload, `{"iss":`) {
		t.Errorf("the claims are not verbatim:\n%s\n%s", payload, claims)
	}
	empty := decodeReply(t, post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{ }}`))
	if payload := unbase64(t, strings.Split(empty.Token, ".")[1]); !json.Valid(payload) {
		t.Errorf("payload %s", payload)
	}
}

// A body over the limit is refused before it is read, and nobody's body is
// read at all.
func TestA04BodiesAreBounded(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	issuer := d.http("issuer")
	d.sign(d.client("issuer"), "web", `{}`)
	before := d.peakMemory()
	const size = 64 << 20
	for _, path := range []string{"/v1/sign/jwt", "/v1/sign/jwt/batch", "/v1/sign/csr"} {
		for _, length := range []int64{size, -1} { // said, and not said
			start, sent := time.Now(), new(counted)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://localhost"+path, io.NopCloser(io.TeeReader(zeros(size), sent)))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			resp, err := issuer.Do(req)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			resp.Body.Close()
			if took := time.Since(start); resp.StatusCode != http.StatusRequestEntityTooLarge || took > 3*time.Second || sent.n.Load() > 8<<20 {
				t.Errorf("%s: status %d after %v and %d bytes", path, resp.StatusCode, took, sent.n.Load())
			}
		}
	}
	if grown := d.peakMemory() - before; grown > 48<<10 {
		t.Errorf("the daemon grew by %d KiB", grown)
	} else {
		t.Logf("six bodies of 64 MiB: the daemon's peak grew by %d KiB", grown)
	}
	// It was: 403 came only after net/http had waited ten seconds for the body of
	// a caller who is nobody, to throw it away.
	nobody := d.httpWith(d.endpoints.Socket, d.identity(func(c *x509.Certificate) { c.URIs = nil }))
	for _, length := range []int64{60 << 10, size} {
		start := time.Now()
		held, release := io.Pipe() // a body that never comes
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://localhost/v1/sign/jwt", held)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		resp, err := nobody.Do(req)
		release.Close()
		if err != nil {
			t.Errorf("nobody's body of %d bytes: %v", length, err)
			continue
		}
		resp.Body.Close()
		if took := time.Since(start); resp.StatusCode != http.StatusForbidden || took > 3*time.Second {
			t.Errorf("nobody's body of %d bytes was waited for: %d after %v", length, resp.StatusCode, took)
		}
	}
	many := `{"keyset":"web","claims":{` + strings.Repeat(`"a":1,`, 10_000) + `"b":1}}` // under 64 KiB
	post(t, issuer, "/v1/sign/jwt", many[:min(len(many), 64<<10)]).want(t, "ten thousand members", api.CodeMalformed)
	d.sign(d.client("issuer"), "web", `{}`)
}

type counted struct{ n atomic.Int64 }

func (c *counted) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// peakMemory returns the most resident memory the daemon ever had, in KiB.
func (d *chanceryd) peakMemory() int64 {
	d.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("VmHWM:"))
	n, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// What callers say never reaches a terminal raw: neither in the daemon's
// output nor in the log.
func TestA22NothingRawInTheLogs(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c, ops := d.http("issuer"), d.httpWith(d.endpoints.Ops, d.pair("operator"))
	for _, raw := range []string{"a\nlevel=ERROR forged", "\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "\r\n\r\nHTTP/1.1 200 OK", "\u0085\u2028", strings.Repeat("A", 30<<10)} {
		text := quoted(t, raw)
		post(t, c, "/v1/sign/jwt", `{"keyset":`+text+`,"claims":{}}`).want(t, raw, api.CodeForbidden)
		post(t, c, "/v1/sign/jwt", `{"keyset":"web","claims":{},"typ":`+text+`}`).want(t, raw, api.CodeTypNotAllowed)
		post(t, c, "/v1/sign/csr", `{"authority":`+text+`,"profile":`+text+`,"csr":""}`).want(t, raw, api.CodeForbidden)
		if len(raw) < 1024 {
			post(t, ops, "/v1/keysets/edge/suspend", `{"reason":`+text+`}`).want(t, raw, "")
			post(t, ops, "/v1/keysets/edge/resume", `{"reason":`+text+`}`).want(t, raw, "")
		} else {
			post(t, ops, "/v1/keysets/edge/suspend", `{"reason":`+text+`}`).want(t, "a long reason", api.CodeMalformed)
		}
		post(t, ops, "/v1/ops/tokens/retry", `{"token":`+text+`}`).want(t, raw, api.CodeNotFound)
		send(t, c, http.MethodGet, "/v1/keysets/"+strings.Map(percent, raw), nil)
	}
	post(t, c, "/v1/sign/jwt", `{"keyset":"`+strings.Repeat("A", 1<<20)+`","claims":{}}`).want(t, "a megabyte", api.CodeTooLarge)
	d.stop()
	raw := func(r rune) bool {
		return r < ' ' && r != '\n' || r == 0x7f || r == '\u202e' || r == '\u2028' || r == '\u0085'
	}
	if i := strings.IndexFunc(d.log.String(), raw); i >= 0 {
		t.Errorf("the daemon's output holds a raw %U", []rune(d.log.String()[i:])[0])
	}
	for line := range strings.Lines(d.log.String()) {
		if strings.HasPrefix(line, "level=ERROR forged") {
			t.Error("a line of the daemon's output is forged")
		}
	}
	for at, err := range audit.Entries(d.dir+"/audit", audit.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		line := at.Entry.Append(nil)
		if len(line) > 16<<10 || bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("entry %s is not one short line of ASCII: %.200q", at.Name(), line)
		}
	}
	if e := d.logged(audit.Filter{Action: keystore.ActSuspend, Outcome: keystore.OutcomeDone}); len(e) != 5 {
		t.Errorf("%d suspensions in the log", len(e))
	}
}

func percent(r rune) rune {
	if r > ' ' && r < 0x7f && !strings.ContainsRune("%/?#[]", r) {
		return r
	}
	return '_'
}

// A24: what is forbidden and what does not exist have one answer.
func TestA24ForbiddenLooksLikeUnknown(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	issuer, ca := d.http("issuer"), d.http("ca")
	operator, auditor := d.httpWith(d.endpoints.Ops, d.pair("operator")), d.httpWith(d.endpoints.Ops, d.pair("auditor"))
	for _, c := range []struct {
		who               *http.Client
		method, path      string
		forbidden, absent string // in place of X in path or body
		body              string
	}{
		{issuer, "POST", "/v1/sign/jwt", "devices", "nothing", `{"keyset":"X","claims":{}}`},
		{issuer, "POST", "/v1/sign/jwt", "audit", "", `{"keyset":"X","claims":{}}`},
		{ca, "POST", "/v1/sign/jwt", "web", "nothing", `{"keyset":"X","claims":{}}`},
		{issuer, "POST", "/v1/sign/csr", "devices", "nothing", `{"authority":"X","profile":"tls","csr":""}`},
		{issuer, "GET", "/v1/keysets/X", "devices", "nothing", ""},
		{ca, "GET", "/v1/keysets/X", "web", "nothing", ""},
		{auditor, "POST", "/v1/keysets/X/suspend", "web", "nothing", `{"reason":"r"}`},
		{auditor, "POST", "/v1/keysets/X/rotate", "web", "nothing", `{"reason":"r"}`},
	} {
		var answers []string
		for _, name := range []string{c.forbidden, c.absent} {
			r, err := send(t, c.who, c.method, strings.ReplaceAll(c.path, "X", name), strings.NewReader(strings.ReplaceAll(c.body, "X", name)))
			if err != nil {
				t.Fatal(err)
			}
			r.want(t, c.path+" "+name, api.CodeForbidden)
			r.header.Del("Date")
			answers = append(answers, fmt.Sprintf("%d %v %s", r.status, r.header, r.body))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s tells %q from %q:\n%s\n%s", c.path, c.forbidden, c.absent, answers[0], answers[1])
		}
	}
	// One who may do everything with every key set learns nothing else either.
	post(t, operator, "/v1/keysets/nothing/suspend", `{"reason":"r"}`).want(t, "suspend nothing", api.CodeForbidden)
}

// A29, A34: each door does its own work for its own people, and no door signs
// what a caller has hashed.
func TestA29A34Doors(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	atOps := d.httpWith(d.endpoints.Ops, d.pair("issuer"))
	atSigning := d.http("operator")
	reason := `{"reason":"r"}`
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/ops/tokens", ""}, {"POST", "/v1/ops/tokens/retry", `{"token":"hsm"}`},
		{"POST", "/v1/keysets/web/rotate", reason}, {"POST", "/v1/keysets/web/suspend", reason}, {"POST", "/v1/keysets/web/resume", reason},
		{"POST", "/v1/keysets/web/compromise", reason}, {"POST", "/v1/ops/compromise", `{"reason":"r","token":"hsm"}`},
		{"GET", "/v1/audit/dev/lifecycle/entries", ""}, {"GET", "/v1/audit/dev/acts/" + time.Now().UTC().Format("2006-01") + "/entries", ""},
	} {
		r, err := send(t, atOps, c.method, c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.want(t, "an issuer at the ops door: "+c.path, api.CodeForbidden)
		if r, err = send(t, atSigning, c.method, c.path, strings.NewReader(c.body)); err != nil {
			t.Fatal(err)
		}
		r.want(t, "an operator at the signing door: "+c.path, api.CodeNotFound)
	}
	jwt, csr := `{"keyset":"web","claims":{}}`, `{"authority":"devices","profile":"tls","csr":""}`
	post(t, atSigning, "/v1/sign/jwt", jwt).want(t, "an operator's JWT", api.CodeForbidden)
	post(t, atSigning, "/v1/sign/csr", csr).want(t, "an operator's CSR", api.CodeForbidden)
	post(t, atOps, "/v1/sign/jwt", jwt).want(t, "a JWT at the ops door", api.CodeNotFound)
	for _, who := range []string{"issuer", "ca", "operator"} {
		for _, path := range []string{"/v1/sign", "/v1/sign/raw", "/v1/sign/jws", "/v1/keysets/web/compromise"} {
			post(t, d.http(who), path, `{"keyset":"web","digest":"`+strings.Repeat("A", 43)+`"}`).want(t, path, api.CodeNotFound)
		}
		post(t, d.http(who), "/v1/sign/digest", `{"keyset":"web","digest":"`+strings.Repeat("A", 43)+`="}`).want(t, "a digest by a key for tokens", api.CodeForbidden)
	}
	for _, c := range []struct{ method, path string }{{"GET", "/v1/sign/jwt"}, {"DELETE", "/v1/keysets/web"}, {"PUT", "/v1/sign/csr"}} {
		r, err := send(t, d.http("issuer"), c.method, c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.want(t, c.method+" "+c.path, api.CodeMethodNotAllowed)
	}
}

// A batch holds 1 to 256 requests, each with its own result, in their order.
func TestBatches(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("issuer")
	batch := func(n int) string {
		return `{"requests":[` + strings.Join(slices.Repeat([]string{`{"keyset":"edge","claims":{}}`}, n), ",") + `]}`
	}
	post(t, c, "/v1/sign/jwt/batch", batch(0)).want(t, "none", api.CodeMalformed)
	post(t, c, "/v1/sign/jwt/batch", batch(257)).want(t, "257", api.CodeMalformed)
	for _, n := range []int{1, 256} {
		r := post(t, c, "/v1/sign/jwt/batch", batch(n))
		r.want(t, strconv.Itoa(n), "")
		var reply api.BatchReply
		if err := json.Unmarshal(r.body, &reply); err != nil || len(reply.Results) != n {
			t.Fatalf("%d results for %d: %v", len(reply.Results), n, err)
		}
		for i, one := range reply.Results {
			if one.Problem != nil {
				t.Errorf("request %d of %d: %v", i, n, one.Problem)
			}
		}
	}
	mixed := []struct {
		request string
		code    api.Code
	}{
		{`{"keyset":"web","claims":{"n":0}}`, ""},
		{`{"keyset":"devices","claims":{}}`, api.CodeForbidden},
		{`{"keyset":"edge","claims":{"n":2},"typ":"at+jwt"}`, ""},
		{`{"keyset":"web","claims":{"iss":"x"}}`, api.CodeClaimReserved},
		{`{"keyset":"web","claims":{},"ttl":4000}`, api.CodeTTLTooLong},
		{`{"keyset":"legacy","claims":{"n":5}}`, ""},
		{`{"keyset":"web","claims":{},"alg":"none"}`, api.CodeMalformed},
		{`{"keyset":"web","claims":{},"typ":"x"}`, api.CodeTypNotAllowed},
		{`7`, api.CodeMalformed},
	}
	var requests []string
	for _, m := range mixed {
		requests = append(requests, m.request)
	}
	r := post(t, c, "/v1/sign/jwt/batch", `{"requests":[`+strings.Join(requests, ",")+`]}`)
	r.want(t, "mixed", "")
	var reply api.BatchReply
	if err := json.Unmarshal(r.body, &reply); err != nil || len(reply.Results) != len(mixed) {
		t.Fatalf("%v: %s", err, r.body)
	}
	entries := make(map[string]bool)
	for i, m := range mixed {
		got := reply.Results[i]
		switch {
		case m.code != "" && (got.Problem == nil || got.Problem.Code != m.code || got.Problem.Status != m.code.Status()):
			t.Errorf("result %d: %+v, want %s", i, got.Problem, m.code)
		case m.code == "" && (got.Problem != nil || entries[got.Reply.Entry]):
			t.Errorf("result %d: %v, or an entry of another one's", i, got.Problem)
		case m.code == "":
			entries[got.Reply.Entry] = true
			payload := string(unbase64(t, strings.Split(got.Reply.Token, ".")[1]))
			if !strings.HasSuffix(payload, fmt.Sprintf(`"n":%d}`, i)) {
				t.Errorf("result %d is another request's: %s", i, payload)
			}
		}
	}
	if _, err := d.client("issuer").SignJWTBatch(t.Context(), nil); !errors.As(err, new(*api.Problem)) {
		t.Errorf("an empty batch by the client: %v", err)
	}
}

// A page of another origin could have a browser sign by the client certificate
// that it holds; a body that is not what it seems was read as it came.
func TestPagesAndEncodings(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t))
	c := d.http("issuer")
	body := `{"keyset":"web","claims":{}}`
	for _, header := range [][]string{
		{"Origin", "https://evil.example"}, {"Origin", "null"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
	} {
		post(t, c, "/v1/sign/jwt", body, header...).want(t, strings.Join(header, ": "), api.CodeForbidden)
	}
	post(t, c, "/v1/sign/jwt", body, "Content-Encoding", "gzip").want(t, "gzip", api.CodeMalformed)
	post(t, c, "/v1/sign/jwt", body, "Content-Encoding", "identity").want(t, "identity", "")
	post(t, c, "/v1/sign/jwt", body, "Origin", "https://localhost").want(t, "our own origin", "")
}
