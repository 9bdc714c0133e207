// Package rooms holds the import policy of the project, as a test.
package rooms

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// policy says which packages of the project each room may import, and which
// rooms may import a foreign package that is kept to one place. Only non-test
// files count. A trailing "/..." means the packages below as well.
const policy = `
keystore              :
keystore/audit        : keystore
keystore/audit/review : keystore keystore/audit
keystore/audit/witness: keystore/audit
keystore/catalog      : keystore
keystore/catalog/postgrestest :
keystore/pkcs11       : keystore keystore/pkcs11/internal/confine
keystore/pkcs11/internal/confine :
keystore/transit      : keystore
keystore/transit/transittest :
keystore/keystoretest : keystore
keystore/transit/transittest :
softhsm               :
softhsm/faultmodule   :
softhsm/softhsmtest   : softhsm softhsm/faultmodule
signer/api            :
signer/api/apitest    : signer/api
signer/api/chanceryv1 :
signer/policy         :
signer/crl            :
signer/jwt            : keystore signer/api signer/policy
signer/ca             : keystore signer/api signer/policy
signer/jwks           : keystore
signer/queue          :
signer/limit          : signer/policy
signer                : keystore keystore/audit signer/api signer/policy signer/jwt signer/ca signer/queue signer/limit
signer/server         : keystore keystore/audit signer signer/api signer/policy signer/crl signer/jwks
signer/rpc            : keystore signer signer/api signer/api/chanceryv1 signer/policy signer/server
signer/client         : signer/api signer/api/chanceryv1
rotation              : keystore keystore/audit
rotation/simulation   : keystore rotation
cmd/internal/clock    :
cmd/internal/config   : cmd/internal/config/document cmd/internal/config/policyfile keystore keystore/audit/witness keystore/catalog keystore/pkcs11 keystore/transit signer/policy signer/crl signer/ca signer/jwt signer/limit signer/queue rotation
cmd/internal/config/document :
cmd/internal/config/policyfile : cmd/internal/config/document keystore signer/policy signer/jwt signer/ca
cmd/internal/devpki   :
cmd/internal/load     :
cmd/internal/manual   :
cmd/internal/manual/manualtest : cmd/internal/manual
cmd/internal/telemetry:
cmd/chancery          : cmd/internal/load cmd/internal/config/policyfile cmd/internal/config/document cmd/internal/manual keystore keystore/audit keystore/audit/review keystore/audit/witness signer/api signer/client signer/jwt signer/policy rotation rotation/simulation
cmd/chanceryd         : *
scripts/benchrun      :
scripts/faulttable    :
`

// kept says which packages alone may import a foreign one.
const kept = `
github.com/miekg/pkcs11         : keystore/pkcs11
github.com/ThalesIgnite/crypto11: keystore/pkcs11
github.com/landlock-lsm/go-landlock/landlock : keystore/pkcs11/internal/confine
github.com/landlock-lsm/go-landlock/landlock/syscall : keystore/pkcs11/internal/confine
github.com/hashicorp/vault/api  : keystore/transit
github.com/mattn/go-sqlite3     : keystore/catalog
github.com/jackc/pgx/v5         : keystore/catalog
github.com/jackc/pgx/v5/stdlib  : keystore/catalog
github.com/jackc/pgx/v5/pgconn  : keystore/catalog
database/sql                    : keystore/catalog
github.com/klauspost/compress/zstd : keystore/audit
go.yaml.in/yaml/v4              : cmd/internal/config/document
cel.dev/cel-go/cel              : signer/policy
github.com/spf13/cobra          : cmd/chancery cmd/chanceryd cmd/internal/manual cmd/internal/manual/manualtest
github.com/prometheus/client_golang/prometheus : cmd/internal/telemetry
google.golang.org/grpc          : signer/api/chanceryv1 signer/rpc signer/client
flag                            : cmd/chancery cmd/chanceryd scripts/benchrun
`

const module = "chancery"

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func parse(text string) map[string][]string {
	rules := make(map[string][]string)
	for line := range strings.Lines(strings.TrimSpace(text)) {
		room, may, _ := strings.Cut(line, ":")
		rules[strings.TrimSpace(room)] = strings.Fields(may)
	}
	return rules
}

func room(path string) (string, bool) { return strings.CutPrefix(path, module+"/") }

func TestRoomsImportOnlyWhatTheyMay(t *testing.T) {
	rules := parse(policy)
	for _, p := range list(t) {
		from, ok := room(p.ImportPath)
		if !ok || from == "cmd/internal/rooms" {
			continue
		}
		may, ok := rules[from]
		if !ok {
			t.Errorf("%s has no line in the import policy", from)
			continue
		}
		for _, imp := range p.Imports {
			if to, ours := room(imp); ours && !slices.Contains(may, to) && !slices.Contains(may, "*") {
				t.Errorf("%s imports %s, which the policy does not allow", from, to)
			}
		}
	}
}

func TestForeignPackagesStayInTheirRooms(t *testing.T) {
	rules := parse(kept)
	for _, p := range list(t) {
		from, _ := room(p.ImportPath)
		for _, imp := range p.Imports {
			if may, ok := rules[imp]; ok && !slices.Contains(may, from) {
				t.Errorf("%s imports %s, which is kept to %v", from, imp, may)
			}
		}
	}
}

// TestTheCommandNeedsNoC: operators and auditors get a static binary.
func TestTheCommandNeedsNoC(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,CgoFiles", module+"/cmd/chancery")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, foreign := range []string{"go-sqlite3", "jackc/pgx", "miekg/pkcs11", "crypto11", "libcap/psx", "hashicorp/vault"} {
		if bytes.Contains(out, []byte(foreign)) {
			t.Errorf("chancery depends on %s", foreign)
		}
	}
}
