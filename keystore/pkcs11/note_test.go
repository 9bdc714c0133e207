package pkcs11_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"chancery/keystore"
	"chancery/softhsm/softhsmtest"
)

// What a note says is for those who can log in to the token: nobody else is to see
// how far a log has come, or take a note for one of Chancery's.
func TestANoteIsSeenAfterALoginOnly(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	if err := p.WriteNote(t.Context(), "audit localhost/audit/dev/lifecycle", []byte("41")); err != nil {
		t.Fatal(err)
	}
	tool, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		missing(t, "no pkcs11-tool (it comes with opensc)")
	}
	list := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tool, append([]string{"--module", token.Module, "--token-label", token.Label, "--list-objects", "--type", "data"}, args...)...)
		cmd.Env = append(cmd.Environ(), "SOFTHSM2_CONF="+token.Conf)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if out := list(); strings.Contains(out, "lifecycle") {
		t.Errorf("without a login:\n%s", out)
	}
	pin, err := os.ReadFile(token.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if out := list("--login", "--pin", strings.TrimSpace(string(pin))); !strings.Contains(out, "audit localhost/audit/dev/lifecycle") || !strings.Contains(out, "chancery") {
		t.Errorf("after a login:\n%s", out)
	}
}

// A note outlives the process that wrote it. One whose writing is cut short leaves
// the new one beside the old, never none, and the next write leaves one.
func TestANoteIsNeverLost(t *testing.T) {
	cfg, _, faults := faulty(t)
	p := open(t, cfg)
	kept := func() (texts []string) {
		t.Helper()
		notes, err := p.ReadNotes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range notes {
			texts = append(texts, n.Name+"="+string(n.Text))
		}
		slices.Sort(texts)
		return texts
	}
	put := func(text string) error { return p.WriteNote(t.Context(), "n", []byte(text)) }
	if err := put("1"); err != nil {
		t.Fatal(err)
	}
	p.Close()
	p = open(t, cfg)
	if got := kept(); !slices.Equal(got, []string{"n=1"}) {
		t.Fatalf("after a restart: %q", got)
	}
	order(t, faults, "C_DestroyObject rv 0x30")
	if err := put("2"); err == nil {
		t.Error("a write that was cut short is told as done")
	}
	order(t, faults)
	if got := kept(); got[0] != "n=1" || got[1] != "n=2" {
		t.Fatalf("after a write that was cut short: %q", got)
	}
	if err := put("3"); err != nil {
		t.Fatal(err)
	}
	if got := kept(); !slices.Equal(got, []string{"n=3"}) {
		t.Errorf("after the next write: %q", got)
	}
}

// A token that cannot be reached keeps no note, and says so in time.
func TestANoteOfATokenThatIsAway(t *testing.T) {
	token := softhsmtest.New(t)
	p := open(t, config(t, token))
	waitFor(t, p, keystore.TokenReady)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteNote(t.Context(), "n", nil); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("WriteNote: %v", err)
	}
	if _, err := p.ReadNotes(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("ReadNotes: %v", err)
	}
}
