package policyfile

import (
	"slices"
	"strings"
	"testing"

	"chancery/signer/policy"
)

// A pin that no certificate has was taken: where a rule requires pins, a case that
// expects to be denied passed because it was mistyped.
func TestAPinOfACaseIsOne(t *testing.T) {
	for pin, fine := range map[string]bool{
		strings.Repeat("0a", 32): true,
		strings.Repeat("0A", 32): false, strings.Repeat("0a", 31): false, strings.Repeat("0g", 32): false, "abc": false, "": false,
	} {
		q, faults := Case{As: "dev:dns:a.test", Action: policy.ReadAudit, PIN: &pin}.Question()
		told := slices.ContainsFunc(faults, func(f *policy.Fault) bool { return f.Path == "pin" })
		if told == fine || fine && (len(faults) > 0 || q.PIN != pin) {
			t.Errorf("%q: %v", pin, faults)
		}
	}
	if _, faults := (Case{As: "dev:dns:a.test", Action: policy.ReadAudit}).Question(); len(faults) > 0 {
		t.Errorf("without one: %v", faults)
	}
}
