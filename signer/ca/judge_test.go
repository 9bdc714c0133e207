package ca

import (
	"testing"

	"chancery/keystore"
	"chancery/signer/api"
)

// A question about a certificate was answered by the rule alone, and its profile
// refused it later.
func TestAQuestionIsAnsweredAsTheRequest(t *testing.T) {
	b, key := newBench(t, keystore.ES256), newKey(t, keystore.ES256).signer
	refused := 0
	for _, c := range []struct {
		name  string
		ttl   *int64
		names []string
	}{
		{"the default", nil, []string{"a.devices.test"}},
		{"an hour", ttl(3600), []string{"a.devices.test", "b.devices.test"}},
		{"a week", ttl(7 * 24 * 3600), []string{"a.devices.test"}},
		{"another name", nil, []string{"a.devices.test", "example.com"}},
		{"a name twice", nil, []string{"a.devices.test", "a.devices.test"}},
		{"a wildcard", nil, []string{"*.devices.test"}},
	} {
		_, err := b.prepare(request(t, key, named(c.names...)), c.ttl)
		o := Judge(b.grant.Terms(), b.profile, c.ttl, c.names)
		if code := codeOf(err); (o == nil) != (err == nil) || o != nil && api.Code(o.Code) != code {
			t.Errorf("%s: %v, but %+v", c.name, err, o)
		}
		if o != nil {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d are refused", refused)
	}
	if o := Judge(b.grant.Terms(), b.profile, nil, nil); o != nil {
		t.Errorf("names that are not known: %+v", o)
	}
}
