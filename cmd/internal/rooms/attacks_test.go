package rooms

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/version"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

const top = "../../.."

// floor is the first release of Go that parses what A11 names in bounded memory
// and time: CVE-2025-58185 and CVE-2025-61723 (ASN.1 and PEM), CVE-2025-58187
// (name constraints, mended again in the release after).
const floor = "go1.25.3"

// A11: nobody builds Chancery with a Go that is older, and known vulnerabilities
// are looked for.
func TestA11TheToolchainHasAFloor(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(top, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for line := range strings.Lines(string(mod)) {
		if v, ok := strings.CutPrefix(line, "go "); ok {
			said = "go" + strings.TrimSpace(v)
		}
	}
	if !version.IsValid(said) || version.Compare(said, floor) < 0 {
		t.Errorf("go.mod asks for %q, want at least %s", said, floor)
	}
	if running := runtime.Version(); version.IsValid(running) && version.Compare(running, said) < 0 {
		t.Errorf("this is %s, and go.mod asks for %s", running, said)
	}
	script, err := os.ReadFile(filepath.Join(top, "scripts", "test"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(script), "go tool govulncheck ./...") {
		t.Error("scripts/test does not run govulncheck")
	}
}

// A12: what parses JOSE is ours and knows JWS alone. Of go-jose only the public
// keys are used: never its parsers of tokens, nor anything that decrypts.
func TestA12NoJWEAtAll(t *testing.T) {
	const jose = "github.com/go-jose/go-jose/v4"
	may := map[string]bool{"JSONWebKey": true, "JSONWebKeySet": true}
	users := 0
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			switch {
			case err != nil:
				return err
			case name == jose && spec.Name == nil:
				users++
			case strings.Contains(name, "jose") || strings.Contains(name, "/jwt") && !strings.HasPrefix(name, module+"/") || strings.Contains(name, "jwx"):
				t.Errorf("%s imports %s", path, name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if of, ok := s.X.(*ast.Ident); ok && of.Name == "jose" && !may[s.Sel.Name] {
					t.Errorf("%s uses jose.%s", path, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if users == 0 {
		t.Error("nothing imports go-jose: this test looks at nothing")
	}
}
