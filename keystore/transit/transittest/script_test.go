package transittest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// get reads the key k of a mount as root, and returns the status or what went
// wrong on the way.
func get(ctx context.Context, f *FakeServer, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", f.Address()+"/v1/"+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Vault-Token", f.RootToken())
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

func TestScriptedStatusAnswersAndDoesNothing(t *testing.T) {
	f := Fake(t)
	mount := f.Mount(t)
	f.Script(Rule{Method: "POST", Path: `/keys/k$`, Status: 429, Header: map[string]string{"Retry-After": "2"}, Body: `{"errors":["slow"]}`, Times: 1})
	status, reply, err := f.CallAs(f.RootToken(), "POST", mount+"/keys/k", nil)
	if err != nil || status != 429 || reply["errors"].([]any)[0] != "slow" {
		t.Errorf("status %d, %v, %v", status, reply, err)
	}
	if status, _ := get(t.Context(), f, mount+"/keys/k"); status != 404 {
		t.Errorf("the key was made: status %d", status)
	}
	f.Call(t, "POST", mount+"/keys/k", nil) // the rule has acted once
}

func TestRulesSkipAndCount(t *testing.T) {
	f := Fake(t)
	f.Script(Rule{Path: "^sys/health$", Skip: 1, Times: 2, Status: 503}, Rule{Path: "^sys/", Method: "HEAD", Status: 418})
	var got []int
	for range 4 {
		status, _ := get(t.Context(), f, "sys/health")
		got = append(got, status)
	}
	if want := [4]int{200, 503, 503, 200}; [4]int(got) != want {
		t.Errorf("statuses %v, want %v", got, want)
	}
	if status, _, _ := f.CallAs("", "HEAD", "sys/health", nil); status != 418 {
		t.Errorf("the second rule answers %d, want 418", status)
	}
	if n := f.Count("GET", "health"); n != 4 {
		t.Errorf("counted %d, want 4", n)
	}
	if n := f.Count("", ""); n != 5 {
		t.Errorf("counted %d of all, want 5", n)
	}
	f.Reset()
	if n := len(f.Requests()); n != 0 {
		t.Errorf("%d requests after Reset", n)
	}
}

func TestRequestsNameTokensByAccessor(t *testing.T) {
	f := Fake(t)
	token := f.Token(t, map[string]any{"ttl": "1h"})
	f.Reset()
	f.Script(Rule{Token: f.Accessor(token), Status: 418})
	if status, _, _ := f.CallAs(token, "GET", "auth/token/lookup-self", nil); status != 418 {
		t.Errorf("status %d, want 418", status)
	}
	f.Call(t, "GET", "auth/token/lookup-self", nil)
	seen := f.Requests()
	if seen[0].Token == "" || seen[0].Token != f.Accessor(token) || strings.Contains(seen[0].Token, token) || seen[1].Token != f.Accessor(f.RootToken()) {
		t.Errorf("the tokens of the requests are not told by accessor")
	}
}

func TestLostAnswers(t *testing.T) {
	f := Fake(t)
	mount := f.Mount(t)
	for name, c := range map[string]struct {
		rule   Rule
		status int // 0: no answer
		done   bool
	}{
		"refused":     {Rule{Refuse: true}, 0, false},
		"dropped":     {Rule{Drop: true}, 0, true},
		"lost-behind": {Rule{StatusAfter: 502}, 502, true},
	} {
		c.rule.Method = "POST"
		f.Script(c.rule)
		status, _, err := f.CallAs(f.RootToken(), "POST", mount+"/keys/"+name, nil)
		if status != c.status || (err != nil) != (c.status == 0) {
			t.Errorf("%s: status %d, %v", name, status, err)
		}
		f.Script()
		status, err = get(t.Context(), f, mount+"/keys/"+name)
		if done := status == 200; err != nil || done != c.done {
			t.Errorf("%s: done is %t, want %t (%v)", name, done, c.done, err)
		}
	}
}

func TestMangle(t *testing.T) {
	f := Fake(t)
	mount := f.Mount(t)
	f.Call(t, "POST", mount+"/keys/k", map[string]any{"type": "ed25519"})
	f.Script(Rule{Method: "GET", Mangle: func(reply map[string]any) {
		data := reply["data"].(map[string]any)
		data["latest_version"] = data["latest_version"].(float64) + 1
		data["keys"].(map[string]any)["1"].(map[string]any)["public_key"] = "AAAA"
	}})
	data := f.Call(t, "GET", mount+"/keys/k", nil)["data"].(map[string]any)
	if data["latest_version"] != 2.0 || data["keys"].(map[string]any)["1"].(map[string]any)["public_key"] != "AAAA" {
		t.Errorf("unmangled: %v", data)
	}
	f.Script()
	if data = f.Call(t, "GET", mount+"/keys/k", nil)["data"].(map[string]any); data["latest_version"] != 1.0 {
		t.Errorf("the key itself has changed: %v", data)
	}
}

func TestDelayAndHang(t *testing.T) {
	f := Fake(t)
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	f.Script(Rule{Delay: time.Hour})
	if _, err := get(short, f, "sys/health"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("delayed: %v", err)
	}
	ends := map[string]func(){
		"the script changes": func() { f.Script() },
		"the server closes":  f.Close,
	}
	for _, how := range []string{"the script changes", "the server closes"} {
		f.Script(Rule{Hang: true})
		before, failed := len(f.Requests()), make(chan error, 1)
		go func() {
			_, err := get(context.Background(), f, "sys/health")
			failed <- err
		}()
		for len(f.Requests()) == before {
			time.Sleep(time.Millisecond)
		}
		ends[how]()
		select {
		case err := <-failed:
			if err == nil {
				t.Errorf("%s: there was an answer", how)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it still hangs", how)
		}
	}
}
