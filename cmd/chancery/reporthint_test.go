package main

import (
	"strings"
	"testing"

	"chancery/signer/api"
)

// Who wrote a cnf that the daemon makes was told to leave out iss, iat, nbf, exp and
// jti.
func TestTheHintOfARefusedClaimIsAboutThatClaim(t *testing.T) {
	a := &app{}
	for detail, want := range map[string]string{
		`the claim "cnf" is the signer's: it binds the token to the caller's certificate`: "leave out cnf",
		`the claim "exp" is the signer's`:                                                 "leave out iss",
	} {
		if hint := a.problemHint(&api.Problem{Code: api.CodeClaimReserved, Detail: detail}); !strings.HasPrefix(hint, want) {
			t.Errorf("%s: %s", detail, hint)
		}
	}
}
