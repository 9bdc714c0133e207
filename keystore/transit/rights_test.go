package transit

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestCompareRights(t *testing.T) {
	// least is what Vault says of a token that has README's policy.
	least := map[string][]string{
		"keys": {"list"}, "keys/" + sample: {"create", "delete", "read", "update"}, "keys/" + sample + "/config": {"update"}, "sign/" + sample: {"update"},
		"keys/" + sample + "/rotate": {"deny"}, "keys/" + sample + "/trim": {"deny"}, "keys/" + sample + "/import": {"deny"},
		"export/signing-key/" + sample: {"deny"}, "backup/" + sample: {"deny"}, "restore/" + sample: {"deny"},
	}
	for _, v := range []struct {
		name          string
		path          string // below the mount; "": all
		caps          any    // there; nil: not said
		lacks, excess []string
	}{
		{"README's policy", "keys", []string{"list"}, nil, nil},
		{"root", "", []string{"root"}, nil, []string{
			"update m/keys/NAME/rotate", "update m/keys/NAME/trim", "update m/keys/NAME/import", "read m/export/signing-key/NAME", "read m/backup/NAME", "update m/restore/NAME",
		}},
		{"nothing", "", []string{"deny"}, []string{
			"list m/keys", "update m/keys/NAME", "read m/keys/NAME", "delete m/keys/NAME", "update m/keys/NAME/config", "update m/sign/NAME",
		}, nil},
		{"a server that says nothing", "", nil, nil, nil},
		{"no list", "keys", []string{"read"}, []string{"list m/keys"}, nil},
		{"no delete", "keys/" + sample, []string{"create", "read", "update"}, []string{"delete m/keys/NAME"}, nil},
		{"sign not said", "sign/" + sample, nil, nil, nil},
		{"sign in another form", "sign/" + sample, "update", nil, nil},
		{"an empty list", "sign/" + sample, []string{}, []string{"update m/sign/NAME"}, nil},
		{"it may rotate", "keys/" + sample + "/rotate", []string{"create"}, nil, []string{"update m/keys/NAME/rotate"}},
		{"it may export", "export/signing-key/" + sample, []string{"read"}, nil, []string{"read m/export/signing-key/NAME"}},
		{"it may list exports, which is nothing", "export/signing-key/" + sample, []string{"list"}, nil, nil},
	} {
		t.Run(v.name, func(t *testing.T) {
			has := map[string]json.RawMessage{"capabilities": json.RawMessage(`["root"]`)}
			for path, caps := range least {
				var said any = caps
				if v.path == "" || v.path == path {
					said = v.caps
				}
				if said == nil {
					continue
				}
				b, err := json.Marshal(said)
				if err != nil {
					t.Fatal(err)
				}
				has["m/"+path] = b
			}
			lacks, excess := compareRights("m", has)
			if !slices.Equal(lacks, v.lacks) || !slices.Equal(excess, v.excess) {
				t.Errorf("lacks %q, want %q; excess %q, want %q", lacks, v.lacks, excess, v.excess)
			}
		})
	}
}

func TestTheSampleIsNoKeys(t *testing.T) {
	id, _, _, ok := parseName(sample)
	if !ok || !id.IsZero() || !strings.HasPrefix(sample, prefix) {
		t.Errorf("%s is asked about, and is not the name of the key that is none", sample)
	}
}
