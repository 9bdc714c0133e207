package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A27: every verifier there is fetches the key set while it rotates. Each gets the
// whole set, with the key that signs, and a max-age within what rotation counts
// on; signing goes on meanwhile.
func TestA27EveryoneFetchesAtARotation(t *testing.T) {
	t.Parallel()
	d := startDev(t, tempDir(t), "--fast")
	c := d.crowd(2, 5*time.Millisecond, "web")
	fetches := soak(t, 3000, 10_000, "fetches while a key set rotates")
	const at = 64
	transport := &http.Transport{MaxIdleConnsPerHost: at}
	defer transport.CloseIdleConnections()
	anyone := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	var mu sync.Mutex // guards what follows
	left, sets, slowest := fetches, map[string]int{}, time.Duration(0)
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			etag := ""
			for {
				mu.Lock()
				mine := left
				left--
				mu.Unlock()
				if mine <= 0 {
					return
				}
				began := time.Now()
				kids, tag, err := fetchSet(anyone, d.issuer("web")+"/jwks.json", etag)
				took := time.Since(began)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if kids != "" {
					sets[kids]++
				}
				slowest = max(slowest, took)
				mu.Unlock()
				etag = tag
				time.Sleep(time.Duration(mine%7) * 20 * time.Millisecond)
			}
		})
	}
	operator := d.client("operator")
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		if _, err := operator.Rotate(t.Context(), "web", rotateFor("a stampede")); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	c.stop()
	t.Logf("%d fetches, %d different sets, the slowest took %v; %d tokens meanwhile", fetches, len(sets), slowest, len(c.replies()))
	if len(c.problems(false)) > 0 {
		t.Errorf("%d requests to sign failed", len(c.problems(false)))
	}
	for _, a := range c.replies() { // what signed was in every set from then on, until the last one
		if !slices.ContainsFunc(keysOf(sets), func(kids string) bool { return strings.Contains(kids, a.reply.KID) }) {
			t.Fatalf("%s signed and was in no set that anyone fetched", a.reply.KID)
		}
	}
}

func keysOf(m map[string]int) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// fetchSet fetches a key set as a cache does, and returns its kids, or none if the
// cache's copy is good still.
func fetchSet(c *http.Client, url, etag string) (kids, tag string, err error) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return "", "", err
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	reply, err := c.Do(req)
	if err != nil {
		return "", "", err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		return "", "", err
	}
	age := 0
	if n, err := fmt.Sscanf(reply.Header.Get("Cache-Control"), "public, max-age=%d", &age); n != 1 || err != nil || age <= 0 || age > 4 {
		return "", "", fmt.Errorf("Cache-Control %q", reply.Header.Get("Cache-Control"))
	}
	switch reply.StatusCode {
	case http.StatusNotModified:
		return "", etag, nil
	case http.StatusOK:
	default:
		return "", "", fmt.Errorf("%s: %s", reply.Status, body)
	}
	var set struct{ Keys []struct{ KID string } }
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) == 0 {
		return "", "", fmt.Errorf("a set of %d keys: %v", len(set.Keys), err)
	}
	for _, k := range set.Keys {
		kids += k.KID + " "
	}
	return kids, reply.Header.Get("ETag"), nil
}
