package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/cmd/internal/config"
	"chancery/keystore"
	"chancery/signer/api"
	"chancery/signer/client"
)

// What --fast promises verifiers.
const (
	fastCaches  = 4 * time.Second // A: the longest a complying cache holds a set
	fastSkew    = time.Second     // S
	fastMaxAge  = fastCaches / 2
	fastPublish = 20 * time.Second // the lease to publish
)

// A judge watches a cluster from outside: which sets each node serves and when,
// and what each says of the versions. In the end it holds what issuers received
// against every set that a complying cache could have had.
type judge struct {
	t       *testing.T
	keysets []string
	stopped chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex // guards what follows
	runs   map[string][]*served
	active map[string]int // by key set and its revision
}

// served is what a node answered again and again when asked for a key set.
type served struct {
	node, keyset string
	status       int
	kids         []string
	// The node certainly served it from first on, and certainly until last.
	first, last time.Time
}

func (s *served) holds(kid string) bool { return slices.Contains(s.kids, kid) }

// watch has a judge look at every node of a cluster until the test ends.
func (c *cluster) watch(keysets ...string) *judge {
	j := &judge{
		t: c.t, keysets: keysets, stopped: make(chan struct{}),
		runs: make(map[string][]*served), active: make(map[string]int),
	}
	for _, m := range c.nodes {
		auditor := m.client("auditor")
		for _, keyset := range keysets {
			url := m.endpoints.Public + "/issuers/" + keyset + "/jwks.json"
			j.every(100*time.Millisecond, func(web *http.Client) { j.fetch(web, m.name, keyset, url) })
		}
		j.every(250*time.Millisecond, func(*http.Client) { j.look(auditor, m.name) })
	}
	c.t.Cleanup(sync.OnceFunc(j.stop))
	return j
}

func (j *judge) every(pause time.Duration, look func(web *http.Client)) {
	j.wg.Go(func() {
		web := &http.Client{Timeout: 2 * time.Second, Transport: new(http.Transport)}
		defer web.CloseIdleConnections()
		for {
			look(web)
			select {
			case <-j.stopped:
				return
			case <-time.After(pause):
			}
		}
	})
}

func (j *judge) stop() {
	select {
	case <-j.stopped:
	default:
		close(j.stopped)
	}
	j.wg.Wait()
}

// fetch asks a node for a key set as a relying party does.
func (j *judge) fetch(web *http.Client, node, keyset, url string) {
	sent := time.Now()
	resp, err := web.Get(url)
	if err != nil {
		j.note(&served{node: node, keyset: keyset})
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		j.note(&served{node: node, keyset: keyset})
		return
	}
	j.note(&served{
		node: node, keyset: keyset, status: resp.StatusCode, kids: kidsOf(resp.StatusCode, body),
		first: time.Now(), last: sent,
	})
	control := resp.Header.Get("Cache-Control")
	age, held := strings.CutPrefix(control, "public, max-age=")
	seconds, _ := strconv.Atoi(strings.SplitN(age, ",", 2)[0])
	switch {
	case resp.StatusCode != http.StatusOK && held:
		j.t.Errorf("node %s: status %d may be kept: %s", node, resp.StatusCode, control)
	case resp.StatusCode == http.StatusOK && (!held || seconds < 1 || time.Duration(seconds)*time.Second > fastMaxAge):
		j.t.Errorf("node %s: the set of %s may be kept: %q", node, keyset, control)
	}
}

func kidsOf(status int, body []byte) (kids []string) {
	var set struct{ Keys []struct{ KID string } }
	if status != http.StatusOK || json.Unmarshal(body, &set) != nil {
		return nil
	}
	for _, key := range set.Keys {
		kids = append(kids, key.KID)
	}
	slices.Sort(kids)
	return kids
}

// note adds an answer to what the node answered before, if that was the same.
func (j *judge) note(s *served) {
	j.mu.Lock()
	defer j.mu.Unlock()
	key := s.node + " " + s.keyset
	runs := j.runs[key]
	if n := len(runs); n > 0 && runs[n-1].status == s.status && slices.Equal(runs[n-1].kids, s.kids) {
		runs[n-1].last = s.last
		return
	}
	j.runs[key] = append(runs, s)
}

// look holds what a node says of the versions against rule 4 and against what
// all nodes said of the same revision.
func (j *judge) look(auditor *client.Client, node string) {
	for _, name := range j.keysets {
		set, err := auditor.KeySet(j.t.Context(), name)
		if err != nil {
			continue // whether a node answers is not for the judge to say
		}
		active := 0
		for _, v := range set.Versions {
			if v.State != keystore.Active.String() {
				continue
			}
			if active != 0 {
				j.t.Errorf("node %s: versions %d and %d of %s are both active at revision %d", node, active, v.Version, name, set.Revision)
			}
			active = v.Version
		}
		key := fmt.Sprint(name, " ", set.Revision)
		j.mu.Lock()
		if before, said := j.active[key]; said && before != active {
			j.t.Errorf("node %s: version %d of %s is active, and at the same revision it was %d", node, active, key, before)
		}
		j.active[key] = active
		j.mu.Unlock()
	}
}

// statuses returns the statuses that a node answered with since a moment when
// asked for a key set, in order and each once; 0 stands for no answer.
func (j *judge) statuses(node, keyset string, since time.Time) (all []int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range j.runs[node+" "+keyset] {
		if s.last.IsZero() || s.last.After(since) {
			all = append(all, s.status)
		}
	}
	return slices.Compact(all)
}

// wantAccepted fails for each token that a verifier could reject while it lives.
func (j *judge) wantAccepted(answers []answer) {
	j.t.Helper()
	for _, why := range j.rejected(answers) {
		j.t.Error(why)
	}
}

// rejected tells of tokens that a verifier could reject while they live: the key is
// missing in a set that some node served and a cache may still hold. Each set is told
// of once for each key.
func (j *judge) rejected(answers []answer) (all []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	told := make(map[string]bool)
	for _, a := range answers {
		exp := time.Unix(claimsOf(j.t, a.reply.Token).Exp, 0)
		for _, runs := range j.runs {
			for _, s := range runs {
				from, until := later(a.answered, s.first), earlier(exp, s.last.Add(fastCaches))
				line := fmt.Sprint(a.reply.KID, s.node, s.first)
				if s.keyset != a.keyset || s.status != http.StatusOK || s.holds(a.reply.KID) || from.After(until) || told[line] {
					continue
				}
				told[line] = true
				all = append(all, fmt.Sprintf("a token of %s by %s, received at %s and valid until %s: node %s served %v until %s, so a cache may miss its key from %s until %s",
					a.keyset, a.reply.KID, clockOf(a.answered), clockOf(exp), s.node, s.kids, clockOf(s.last), clockOf(from), clockOf(until)))
			}
		}
	}
	return all
}

// wantInWindow fails for each token that was received before its version could
// sign, or longer after that stopped than the lease of a node that did not know.
func (j *judge) wantInWindow(sets []api.KeySet, answers []answer) {
	j.t.Helper()
	versions := make(map[string]api.Version)
	for _, set := range sets {
		for i, v := range set.Versions {
			if v.Version != i+1 {
				j.t.Errorf("key set %s has version %d in place %d", set.Name, v.Version, i+1)
			}
			if other, twice := versions[v.KID]; twice && v.KID != "" {
				j.t.Errorf("key set %s: version %d has the key of %d", set.Name, v.Version, other.Version)
			}
			versions[v.KID] = v
			if v.Version > 1 && v.SignsFrom != nil && v.PublishedAt != nil && v.SignsFrom.Sub(*v.PublishedAt) < fastCaches+fastSkew {
				j.t.Errorf("key set %s version %d signs %v after it was published", set.Name, v.Version, v.SignsFrom.Sub(*v.PublishedAt))
			}
		}
	}
	told := make(map[string]bool)
	for _, a := range answers {
		v, known := versions[a.reply.KID]
		early := known && (v.SignsFrom == nil || a.answered.Before(*v.SignsFrom))
		late := known && v.SignsUntil != nil && a.answered.After(v.SignsUntil.Add(config.Lease+fastSkew))
		if (!known || early || late) && !told[a.reply.KID] {
			told[a.reply.KID] = true
			j.t.Errorf("a token of %s by %s was received at %s: its version is %+v", a.keyset, a.reply.KID, clockOf(a.answered), v)
		}
	}
}

func clockOf(t time.Time) string { return t.Format("15:04:05.000") }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// The judge finds a key that signed before every cache had it, and one that left a
// set while its tokens lived, and nothing else.
func TestTheJudgeFindsWhatACacheWouldMiss(t *testing.T) {
	began := time.Now().Truncate(time.Second)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	j := &judge{t: t, runs: map[string][]*served{
		"a web": {
			{"a", "web", 200, []string{"one"}, at(0), at(10)},
			{"a", "web", 200, []string{"one", "two"}, at(11), at(40)},
			{"a", "web", 503, nil, at(41), at(50)},
			{"a", "web", 200, []string{"two"}, at(51), at(60)},
		},
		"a edge": {{"a", "edge", 200, []string{"other"}, at(0), at(60)}},
	}}
	for _, c := range []struct {
		kid           string
		received, exp int
		want          int
	}{
		{"two", 15, 25, 0},
		{"two", 14, 24, 1}, // caches may hold the first set until then
		{"one", 40, 50, 0}, // and while nothing is served
		{"one", 41, 51, 1},
		{"two", 3, 4, 1},
		{"two", 50, 90, 0},
	} {
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, at(c.exp).Unix()))
		a := answer{keyset: "web", answered: at(c.received), reply: &api.SignJWTReply{Token: "h." + claims + ".s", KID: c.kid}}
		if got := j.rejected([]answer{a, a}); len(got) != c.want {
			t.Errorf("a token by %s received at %d and valid until %d: %q, want %d", c.kid, c.received, c.exp, got, c.want)
		}
	}
}
