package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/keystore"
	"chancery/rotation"
	"chancery/signer/api"
)

// producedBy tells which test has the daemon, or the package that makes it,
// answer with each code.
var producedBy = map[api.Code]struct{ name, test, dir string }{
	api.CodeMalformed:             {"CodeMalformed", "TestA02A03Claims", "."},
	api.CodeClaimReserved:         {"CodeClaimReserved", "TestA02A03Claims", "."},
	api.CodeClaimInvalid:          {"CodeClaimInvalid", "TestA06TokensOfAKindAreNoOther", "."},
	api.CodeTTLTooLong:            {"CodeTTLTooLong", "TestA02A03Claims", "."},
	api.CodeTypNotAllowed:         {"CodeTypNotAllowed", "TestA01HeaderIsOurs", "."},
	api.CodeNameNotAllowed:        {"CodeNameNotAllowed", "TestA08A09HostileRequests", "."},
	api.CodeClaimNotAllowed:       {"CodeClaimNotAllowed", "TestTextsOfPoliciesStandBesideTheLog", "."},
	api.CodeClaimMissing:          {"CodeClaimMissing", "TestTextsOfPoliciesStandBesideTheLog", "."},
	api.CodeAudienceNotAllowed:    {"CodeAudienceNotAllowed", "TestTextsOfPoliciesStandBesideTheLog", "."},
	api.CodeScopeNotAllowed:       {"CodeScopeNotAllowed", "TestTextsOfPoliciesStandBesideTheLog", "."},
	api.CodeKeyRejected:           {"CodeKeyRejected", "TestA08A09HostileRequests", "."},
	api.CodeCertificateExpired:    {"CodeCertificateExpired", "TestA16ExpiryOnAnOpenConnection", "."},
	api.CodeCertificateRevoked:    {"CodeCertificateRevoked", "TestS21A16Revocation", "."},
	api.CodeForbidden:             {"CodeForbidden", "TestA24ForbiddenLooksLikeUnknown", "."},
	api.CodeNotFound:              {"CodeNotFound", "TestA29A34Doors", "."},
	api.CodeMethodNotAllowed:      {"CodeMethodNotAllowed", "TestA29A34Doors", "."},
	api.CodeTooEarly:              {"CodeTooEarly", "TestRotationOnRequest", "."},
	api.CodeIdempotencyInProgress: {"CodeIdempotencyInProgress", "TestIdempotentRequests", "."},
	api.CodeTooLarge:              {"CodeTooLarge", "TestA08A09HostileRequests", "."},
	api.CodeIdempotencyMismatch:   {"CodeIdempotencyMismatch", "TestIdempotentRequests", "."},
	api.CodeKeySetSuspended:       {"CodeKeySetSuspended", "TestSuspension", "."},
	api.CodeBackendUnavailable:    {"CodeBackendUnavailable", "TestAKeyIsDeletedFromTheToken", "."},
	api.CodeAuditUnavailable:      {"CodeAuditUnavailable", "TestS12JournalTaken", "."},
	api.CodeLeaseExpired:          {"CodeLeaseExpired", "TestS06CatalogHeld", "."},
	api.CodeRevocationUnknown:     {"CodeRevocationUnknown", "TestA17S21RevocationLists", "."},
	api.CodeSignatureInvalid:      {"CodeSignatureInvalid", "TestA24KeystoreErrorsHaveCodes", "../../signer"},
	api.CodeConflict:              {"CodeConflict", "TestRefusalsOfRotationHaveCodes", "."},
	api.CodeInternal:              {"CodeInternal", "TestA24KeystoreErrorsHaveCodes", "../../signer"},
	api.CodeOverloaded:            {"CodeOverloaded", "TestOverdueRequestsAreOverload", "../../signer"},
	api.CodeCanceled:              {"CodeCanceled", "TestWhoDidNotWaitIsToldFromWhatIsDown", "../../signer"},
	api.CodeDeadlineExceeded:      {"CodeDeadlineExceeded", "TestWhoDidNotWaitIsToldFromWhatIsDown", "../../signer"},
}

// Every stable code is produced by a test, which names it.
func TestEveryCodeIsProduced(t *testing.T) {
	for _, code := range slices.Sorted(maps.Keys(api.Codes())) {
		by, ok := producedBy[code]
		if !ok {
			t.Errorf("no test is said to produce %s", code)
			continue
		}
		body := sourceOf(t, by.dir, by.test)
		if body == nil {
			t.Errorf("%s is said to be produced by %s, which is not in %s", code, by.test, by.dir)
			continue
		}
		if !mentions(body, by.name) {
			t.Errorf("%s does not mention %s", by.test, by.name)
		}
	}
}

// What the engine of rotation refuses has a code, and says when to come back in
// whole seconds, never too early.
func TestRefusalsOfRotationHaveCodes(t *testing.T) {
	for _, c := range []struct {
		err   error
		code  api.Code
		rule  int
		after int64
	}{
		{&rotation.TooEarly{Rule: 1, RetryAfter: 4001 * time.Millisecond, Text: "x"}, api.CodeTooEarly, 1, 5},
		{&rotation.TooEarly{Rule: 6, Text: "x"}, api.CodeTooEarly, 6, 1},
		{&rotation.TooMany{Known: 20, RetryAfter: 59500 * time.Millisecond}, api.CodeConflict, 0, 60},
		{&rotation.Kept{Rule: 10, Text: "x"}, api.CodeConflict, 10, 0},
		{fmt.Errorf("x: %w", keystore.ErrAmbiguous), api.CodeConflict, 0, 0},
		{fmt.Errorf("x: %w", keystore.ErrUncertain), api.CodeBackendUnavailable, 0, 1},
		{fmt.Errorf("x: %w", keystore.ErrOvertaken), api.CodeConflict, 0, 1},
		{fmt.Errorf("x: %w", keystore.ErrNotFound), api.CodeNotFound, 0, 0},
		{fmt.Errorf("x: %w", errUnentered), api.CodeAuditUnavailable, 0, 1},
		{fmt.Errorf("%w: %w", errCatalog, keystore.ErrUnavailable), api.CodeLeaseExpired, 0, 1},
		{fmt.Errorf("x: %w", errStale), api.CodeLeaseExpired, 0, 1},
		{fmt.Errorf("x: %w", rotation.ErrNotConfigured), api.CodeNotFound, 0, 0},
	} {
		e, ok := errors.AsType[*api.Error](destroyError(c.err))
		if !ok || e.Code != c.code || e.Rule != c.rule || e.RetryAfter != c.after {
			t.Errorf("%v becomes %+v, want %s, rule %d, after %d s", c.err, e, c.code, c.rule, c.after)
		}
	}
}

// sourceOf returns the body of a test function in a directory.
func sourceOf(t *testing.T, dir, test string) ast.Node {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Name.Name == test {
				return f.Body
			}
		}
	}
	return nil
}

func mentions(node ast.Node, name string) (found bool) {
	ast.Inspect(node, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && strings.HasSuffix(id.Name, name) {
			found = true
		}
		return !found
	})
	return found
}
