package ca

import (
	"errors"

	"chancery/signer/api"
	"chancery/signer/policy"
)

// Judge returns why Prepare would refuse a certificate of a profile with this
// lifetime, in seconds, and these DNS names under a grant on these terms, or nil. A
// lifetime that is nil is the default, names that are nil are not known, and neither
// is what else a CSR holds.
// Nothing is prepared, and nothing can be signed for it.
func Judge(t policy.Terms, profile *Profile, ttl *int64, names []string) *policy.Objection {
	_, err := lifetime(t, profile, ttl)
	if err == nil && names != nil {
		err = checkNames(t, profile, names)
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return nil
	}
	return &policy.Objection{Part: "profile", Code: string(e.Code), Text: e.Detail + ", by the profile " + profile.name}
}
