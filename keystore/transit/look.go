package transit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"chancery/keystore"
)

// look looks at the mount: that it is a Transit engine and the one it was, what
// the token may do with it, that the probe key signs, and that the keys in use are
// what they were. One look for all who want one at a time.
func (p *Provider) look(ctx context.Context) error {
	select {
	case p.looking <- struct{}{}:
		defer func() { <-p.looking }()
	case <-ctx.Done():
		return gaveUp(ctx)
	}
	number := p.login.generation()
	err := p.lookAtMount(ctx)
	blocked := err // what is there cannot be used at all
	if err == nil {
		err = p.lookAtRights(ctx, number)
	}
	if err == nil {
		err = p.lookAtProbe(ctx)
		if isKind(err, denied) {
			blocked = err
		}
	}
	if ctx.Err() != nil && p.ctx.Err() == nil && err != nil { // its caller's time was over, which says nothing
		return gaveUp(ctx)
	}
	if t := troubleOf(err); t != nil && (t.kind == unreachable || t.down() || t.failed() && p.failing(ctx)) { // the servers' state tells
		return err
	}
	p.mu.Lock()
	p.seen, p.doubt, p.problem, p.blocked = true, false, err, blocked
	if err == nil {
		p.asked = number
	}
	p.mu.Unlock()
	if err == nil {
		p.lookAtKeys(ctx)
	}
	return err
}

// failing reports whether the server that a look has failed at fails at a signature,
// too.
func (p *Provider) failing(ctx context.Context) bool {
	s := p.cluster.pick(nil)
	if s == nil {
		return true
	}
	_, err := s.send(ctx, p.trial())
	return !troubleOf(err).serves()
}

// lookAtMount asks which engine is mounted where the keys are to be. Every token
// that may do anything there may ask that.
func (p *Provider) lookAtMount(ctx context.Context) error {
	a, err := p.cluster.do(ctx, &request{method: "GET", path: "sys/internal/ui/mounts/" + p.cfg.Mount, within: p.cfg.Deadlines.Read})
	if err != nil {
		if isKind(err, denied) || isKind(err, noRoute) || isKind(err, refused) {
			return fmt.Errorf("mount %q: %w (hint: enable it: vault secrets enable -path=%s transit; check mount and namespace, and the token's policy)", p.cfg.Mount, err, p.cfg.Mount)
		}
		return err
	}
	var mount struct {
		Type     string `json:"type"`
		Path     string `json:"path"`
		Accessor string `json:"accessor"`
		Version  string `json:"running_plugin_version"`
	}
	if err := a.read(&mount); err != nil {
		return err
	}
	if mount.Type != "transit" || strings.Trim(mount.Path, "/") != p.cfg.Mount {
		return fmt.Errorf("%w: at %q there is an engine of type %.40q at %.80q (hint: name the path of a Transit engine that is Chancery's alone)",
			keystore.ErrUnavailable, p.cfg.Mount, mount.Type, mount.Path)
	}
	p.mu.Lock()
	p.version = clean(mount.Version)
	p.mu.Unlock()
	return p.identify(mount.Accessor)
}

// sameMount returns nil if the mount is the one that held the keys: an empty one
// in its place says nothing of them.
func (p *Provider) sameMount(ctx context.Context) error {
	err := p.lookAtMount(ctx)
	if errors.Is(err, keystore.ErrTokenChanged) {
		p.suspect()
	}
	return err
}

// suspect has the mount looked at, unless it is known that something is wrong with
// it. It does not wait.
func (p *Provider) suspect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == nil {
		p.doubt = true
		p.kick()
	}
}

// identify compares the mount with the one that held the keys: its accessor is
// made anew whenever an engine is enabled, with nothing in it.
func (p *Provider) identify(accessor string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.accessor
	if accessor = clean(accessor); accessor == known || accessor == "" {
		return nil
	}
	if known != "" && !p.anew {
		return fmt.Errorf("%w: another engine is mounted at %q than the one that held the keys: %s, not %s "+
			"(hint: find out who disabled it; `chancery token retry %s` takes the new one)", keystore.ErrTokenChanged, p.cfg.Mount, accessor, known, p.cfg.Mount)
	}
	if err := p.remember(accessor); err != nil {
		return fmt.Errorf("%w: remembering the mount: %w", keystore.ErrUnavailable, err)
	}
	p.accessor, p.anew = accessor, false
	return nil
}

// remember writes down which mount it is.
func (p *Provider) remember(accessor string) error {
	if p.cfg.StateDir == "" {
		return nil
	}
	b, err := json.Marshal(mountFile{p.cfg.Mount, p.cfg.Namespace, accessor})
	if err != nil {
		return err
	}
	return renameio.WriteFile(p.mountPath(), append(b, '\n'), 0o600)
}

// A mountFile is what StateDir keeps of the mount.
type mountFile struct {
	Mount     string `json:"mount"`
	Namespace string `json:"namespace"`
	Accessor  string `json:"accessor"`
}

func (p *Provider) mountPath() string { return filepath.Join(p.cfg.StateDir, p.cfg.Name+".mount.json") }

// recall reads which mount it was. Another mount or namespace in the
// configuration is another mount, and nothing is known of it.
func (p *Provider) recall() error {
	if p.cfg.StateDir == "" {
		return nil
	}
	if err := os.MkdirAll(p.cfg.StateDir, 0o700); err != nil {
		return err
	}
	b, err := os.ReadFile(p.mountPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var f mountFile
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return fmt.Errorf("reading which mount it was: %w (hint: remove %s to take the mount that is there)", err, p.mountPath())
	}
	if f.Mount == p.cfg.Mount && f.Namespace == p.cfg.Namespace {
		p.accessor = f.Accessor
	}
	return nil
}

// A right is what the token is to have at one path below the mount, and what it
// is better without.
type right struct {
	path   string
	needed []string
	spare  []string
}

// sample is a key name that no key has.
const sample = prefix + "jwt-es256-00000000000000000000000000000000"

// rights is the policy that README documents.
var rights = []right{
	{path: "keys", needed: []string{"list"}},
	{path: "keys/" + sample, needed: []string{"update", "read", "delete"}},
	{path: "keys/" + sample + "/config", needed: []string{"update"}},
	{path: "sign/" + sample, needed: []string{"update"}},
	{path: "keys/" + sample + "/rotate", spare: []string{"update"}},
	{path: "keys/" + sample + "/trim", spare: []string{"update"}},
	{path: "keys/" + sample + "/import", spare: []string{"update"}},
	{path: "export/signing-key/" + sample, spare: []string{"read"}},
	{path: "backup/" + sample, spare: []string{"read"}},
	{path: "restore/" + sample, spare: []string{"update"}},
}

// lookAtRights asks once for each token what it may do, and again while it lacks
// something. A token that may not sign keeps the mount from serving; what else it
// lacks, and what it has beyond, is told. A server that does not say, says nothing.
func (p *Provider) lookAtRights(ctx context.Context, number uint64) error {
	p.mu.Lock()
	done := p.asked == number && number != 0 && p.lacks == ""
	p.mu.Unlock()
	if done {
		return nil
	}
	var paths []string
	for _, r := range rights {
		paths = append(paths, p.cfg.Mount+"/"+r.path)
	}
	a, err := p.cluster.do(ctx, &request{method: "POST", path: "sys/capabilities-self", body: map[string][]string{"paths": paths}, within: p.cfg.Deadlines.Read})
	if isKind(err, denied) || isKind(err, noRoute) || isKind(err, absent) {
		p.cfg.Log.DebugContext(ctx, "what the Vault token may do cannot be read", "keystore", p.cfg.Name, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	var has map[string]json.RawMessage // "capabilities" beside the paths
	if err := a.read(&has); err != nil {
		return err
	}
	lacks, excess := compareRights(p.cfg.Mount, has)
	p.mu.Lock()
	p.excess, p.lacks = "", ""
	if len(excess) > 0 {
		p.excess = "the Vault token may do more than it needs: " + strings.Join(excess, ", ")
	}
	p.mu.Unlock()
	if len(excess) > 0 {
		p.cfg.Log.WarnContext(ctx, "the Vault token may do more than it needs (README has the least policy)", "keystore", p.cfg.Name, "more", excess)
	}
	if len(lacks) == 0 {
		return nil
	}
	text := fmt.Sprintf("the Vault token may not: %s (hint: README has the policy that Chancery needs)", strings.Join(lacks, ", "))
	if slices.ContainsFunc(lacks, func(l string) bool { return !strings.HasPrefix(l, "delete ") && !strings.HasSuffix(l, "/config") }) {
		return fmt.Errorf("%w: %s", keystore.ErrUnavailable, text)
	}
	p.mu.Lock()
	p.lacks = text // it signs, and destroys nothing
	p.mu.Unlock()
	return nil
}

// compareRights returns what a token lacks, and what it has beyond. It is pure.
func compareRights(mount string, has map[string]json.RawMessage) (lacks, excess []string) {
	for _, r := range rights {
		path := mount + "/" + r.path
		var caps []string
		if json.Unmarshal(has[path], &caps) != nil {
			continue // not said
		}
		shown := strings.ReplaceAll(path, sample, "NAME")
		all := slices.Contains(caps, "root")
		for _, c := range r.needed {
			if !all && !slices.Contains(caps, c) {
				lacks = append(lacks, c+" "+shown)
			}
		}
		for _, c := range r.spare {
			if all || slices.Contains(caps, c) || c == "update" && slices.Contains(caps, "create") {
				excess = append(excess, c+" "+shown)
			}
		}
	}
	return lacks, excess
}

// lookAtProbe has the probe key sign, and makes it first if there is none.
func (p *Provider) lookAtProbe(ctx context.Context) error {
	name := nameOf(probeID, probePurpose, probeAlgorithm)
	info, err := p.read(ctx, name)
	if isKind(err, absent) {
		if err = p.create(ctx, name, probeAlgorithm); err == nil || errors.Is(err, keystore.ErrExists) {
			info, err = p.readFresh(ctx, name)
		}
	}
	if err != nil {
		return fmt.Errorf("the probe key: %w", err)
	}
	spki, err := info.check(probeAlgorithm)
	if err != nil {
		return fmt.Errorf("%w: the probe key %s: %w (hint: allow its deletion and delete it, and another one is made)", keystore.ErrUnavailable, name, err)
	}
	k, err := p.newKey(keystore.KeyRef{ID: probeID, Algorithm: probeAlgorithm, SPKI: spki}, probePurpose)
	if err != nil {
		return err
	}
	if err := k.challenge(ctx); err != nil {
		return fmt.Errorf("the probe key: %w", err)
	}
	return nil
}

// trial is a request for a signature of the probe key, which nobody needs.
func (p *Provider) trial() *request {
	body := signForm(probeAlgorithm)
	body.Batch = []signInput{{keystore.Digest(probeAlgorithm, append([]byte{keystore.ProbePrefix}, "chancery look "+rand.Text()...))}}
	name := nameOf(probeID, probePurpose, probeAlgorithm)
	return &request{method: "POST", path: p.cfg.Mount + "/sign/" + name, body: &body, within: p.cfg.Deadlines.Sign}
}

// looksAt is how many keys in use one look reads; more take turns.
const looksAt = 16

// lookAtKeys looks whether somebody else has rotated or configured keys in use.
func (p *Provider) lookAtKeys(ctx context.Context) {
	changed := false
	for _, k := range p.turn() {
		info, err := p.read(ctx, k.name)
		var lacks []string
		switch {
		case err == nil:
			lacks, err = info.lacks(), k.fits(info)
		case isKind(err, absent):
			lacks, err = []string{"it is gone"}, nil // signing says so, after more than one look
		default:
			continue // another look will show
		}
		if k.differs(lacks, err) {
			changed = true
			p.cfg.Log.ErrorContext(ctx, "a Transit key in use is not what it was: somebody else has changed it",
				"keystore", p.cfg.Name, "key", k.name, "lacks", lacks, "err", err)
		}
	}
	if changed && p.cfg.OnChange != nil {
		p.cfg.OnChange()
	}
}

// turn returns the keys in use whose turn it is to be read.
func (p *Provider) turn() []*key {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Sorted(maps.Keys(p.open))
	first, _ := slices.BinarySearch(names, p.next)
	var keys []*key
	for i := range min(len(names), looksAt) {
		keys = append(keys, p.open[names[(first+i)%len(names)]])
	}
	p.next = ""
	if len(names) > looksAt {
		p.next = names[(first+looksAt)%len(names)]
	}
	return keys
}
