package policyfile

import (
	"fmt"
	"slices"
	"time"

	"chancery/keystore"
	"chancery/signer/ca"
	"chancery/signer/jwt"
	"chancery/signer/policy"
)

// Ask answers q as a daemon with this configuration would, as far as the file says
// it: by the rules, by what the profile asks for, and by the key set's limits. A
// request that is allowed can still be refused for what else its CSR holds.
func (p *Part) Ask(q Question) policy.Explanation {
	q.Request.Defaults = p.defaults(q)
	q.Judge = func(t policy.Terms) *policy.Objection {
		if t.Action() == policy.SignCSR {
			return p.judgeCSR(t, q)
		}
		return p.judge(t, q)
	}
	return p.Policy.Explain(q.Question)
}

// defaults returns what a request gets that names neither lifetime, in seconds, nor
// typ, by the profile that it has under a rule.
func (p *Part) defaults(q Question) func(profile string) (ttl int64, typ string) {
	return func(profile string) (int64, string) {
		switch q.Action {
		case policy.SignJWT:
			ttl, typ := p.setting.Profiles[profile].Defaults(p.keySet(q.Target.KeySet).DefaultTTL)
			return int64(ttl / time.Second), typ
		case policy.SignCSR:
			written, ok := p.setting.Authorities[q.Target.Authority][profile]
			if !ok {
				return int64(ca.DefaultTTL / time.Second), ""
			}
			return int64(written.DefaultTTL / time.Second), ""
		}
		return 0, ""
	}
}

// keySet returns what is known of a key set: its defaults, where that is nothing.
func (p *Part) keySet(name string) KeySet {
	if ks, ok := p.setting.KeySets[name]; ok {
		return ks
	}
	return KeySet{}.filled()
}

// judgeCSR returns why a CSR is refused, on the terms of the rule that decides, or nil.
func (p *Part) judgeCSR(t policy.Terms, q Question) *policy.Objection {
	name := t.Target()
	authority, known := p.setting.Authorities[name.Authority]
	profile := authority[name.Profile]
	switch {
	case p.setting.Authorities == nil:
		return t.Object(q.Question)
	case !known:
		return &policy.Objection{Part: "authorities", Code: policy.CodeForbidden, Text: fmt.Sprintf("there is no authority %q", name.Authority)}
	case profile == nil:
		return &policy.Objection{Part: "profiles", Code: policy.CodeForbidden, Text: fmt.Sprintf("authority %s has no profile %q", name.Authority, name.Profile)}
	case profile.Checked == nil:
		return t.Object(q.Question)
	}
	if o := ca.Judge(t, profile.Checked, q.ttl(), q.Names); o != nil {
		return o
	}
	return t.Object(q.Question) // it may name nothing
}

// judge returns why q is refused by what is not the policy's, on the terms of the
// rule that decides, or nil.
func (p *Part) judge(t policy.Terms, q Question) *policy.Objection {
	name := t.Target().KeySet
	ks, known := p.setting.KeySets[name]
	if p.setting.KeySets != nil && !known {
		return &policy.Objection{Part: "keysets", Code: policy.CodeForbidden, Text: fmt.Sprintf("there is no key set %q", name)}
	}
	want := keystore.PurposeJWT
	if q.Action == policy.SignDigest {
		want = keystore.PurposeDigest
	}
	if ks.Purpose != "" && ks.Purpose != want {
		return &policy.Objection{Part: "keyset", Code: policy.CodeForbidden, Text: fmt.Sprintf("key set %s is of purpose %s", name, ks.Purpose)}
	}
	if q.Action == policy.SignDigest {
		return nil
	}
	profile, there := p.setting.Profiles[t.Target().Profile]
	if !there {
		return &policy.Objection{Part: "profiles", Code: policy.CodeForbidden, Text: fmt.Sprintf("there is no claims profile %q", t.Target().Profile)}
	}
	req := jwt.Request{KeySet: name, Claims: q.Request.Body, Typ: q.Request.Typ, CNFCertificate: q.CNFCertificate, TTL: q.ttl()}
	if o := jwt.Judge(t, req, jwt.Env{DefaultTTL: p.keySet(name).DefaultTTL, MaxTTL: ks.MaxTTL, Profile: profile}); o != nil {
		return o
	}
	if ks.Algorithm != "" && !profile.SignedBy(ks.Algorithm) {
		return &policy.Objection{Part: "profile", Code: policy.CodeForbidden, Text: fmt.Sprintf("tokens of the profile %s are not signed by %s, the algorithm of the key set", profile.Name(), ks.Algorithm)}
	}
	return nil
}

// anchor reports whether there is a trust anchor of a name.
func (p *Part) anchor(name string) bool { return slices.Contains(p.anchors(), name) }

func (p *Part) anchors() (names []string) {
	for _, a := range p.setting.Config.Anchors {
		names = append(names, a.Name)
	}
	return names
}
