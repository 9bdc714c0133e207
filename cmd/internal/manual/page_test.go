package manual

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// tree is a root with a command whose words have all that man reads otherwise.
func tree() *cobra.Command {
	root := &cobra.Command{Use: "prog", Short: "Do things", Long: "Do things, of every kind."}
	root.PersistentFlags().String("dir", "", "a `DIR` of it")
	sub := &cobra.Command{
		Use: "sub NAME --reason WHY", Short: "Do one thing",
		Long:    "Do 'one' thing\nas a ~person~ would, \"so\" to say: `x` ^ \\n.\n\n.hidden is no request, 'nor this:\n'x is not one.\n\n  a   table\n  of  lines\nand on.",
		Example: "  prog --dir . sub x --reason '.'",
		RunE:    func(*cobra.Command, []string) error { return nil },
	}
	sub.Flags().Int("times", 3, "how often")
	sub.Flags().BoolP("quiet", "q", false, "say nothing")
	root.AddCommand(sub, &cobra.Command{Use: "ghost", Hidden: true, Run: func(*cobra.Command, []string) {}})
	return root
}

func TestAPageTellsEverything(t *testing.T) {
	root := tree()
	sub := root.Commands()[1]
	if sub.Name() != "sub" {
		sub = root.Commands()[0]
	}
	got := string(Page(sub, "1", Build{"v1", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}))
	for _, want := range []string{
		`.TH "PROG\-SUB" "1" "2026-03-01" "prog v1" "Chancery"`, "prog\\-sub \\- do one thing\n", ".B prog sub\nNAME \\-\\-reason WHY",
		"Do \\(aqone\\(aq thing\nas a \\(tiperson\\(ti would, \\(dqso\\(dq to say: \\(gax\\(ga \\(ha \\en.\n.PP\n\\&.hidden",
		"\n\\(aqx is not one.\n.PP\n.nf\n  a   table\n  of  lines\n.fi\nand on.\n",
		".TP\n\\fB\\-q\\fR, \\fB\\-\\-quiet\\fR\nsay nothing\n", ".TP\n\\fB\\-\\-times\\fR \\fIint\\fR\nhow often (default 3)\n",
		".SH GLOBAL\\ OPTIONS\n.TP\n\\fB\\-\\-dir\\fR \\fIDIR\\fR\na DIR of it\n",
		".SH EXAMPLES\n.nf\n  prog \\-\\-dir . sub x \\-\\-reason \\(aq.\\(aq\n.fi\n", ".SH SEE\\ ALSO\n.BR prog (1)\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %q:\n%s", want, got)
		}
	}
	if whole := string(Page(root, "1", Build{})); !strings.Contains(whole, ".BR prog\\-sub (1)\nDo one thing\n") || strings.Contains(whole, "ghost") {
		t.Errorf("the page of the root:\n%s", whole)
	}
}

// mandoc reads the pages without a warning, and shows what was written.
func TestPagesRender(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no mandoc (hint: scripts/test installs it)")
		}
		t.Skip("there is no mandoc")
	}
	dir := t.TempDir()
	if err := Write(dir, tree(), "8", Build{"v1", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.8"))
	if err != nil || len(pages) != 2 {
		t.Fatalf("%q: %v", pages, err)
	}
	if out, err := exec.Command(mandoc, append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := exec.Command(mandoc, "-T", "ascii", filepath.Join(dir, "prog-sub.8")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for strings.Contains(string(out), "\b") { // overstriking
		at := strings.IndexByte(string(out), '\b')
		out = append(out[:at-1], out[at+1:]...)
	}
	text := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{`Do 'one' thing as a ~person~ would, "so" to say: ` + "`x`" + ` ^ \n.`, ".hidden is no request, 'nor this: 'x is not one.", "-q, --quiet say nothing", "prog --dir . sub x --reason '.'"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not show %q:\n%s", want, out)
		}
	}
}

func TestGapsAreNamed(t *testing.T) {
	root := tree()
	bare := &cobra.Command{Use: "bare", Short: "Say.", Example: "prog bare", Run: func(*cobra.Command, []string) {}}
	bare.Flags().String("x", "", "")
	root.AddCommand(bare)
	got := strings.Join(Gaps(root), "\n")
	for _, want := range []string{"prog bare: Short", "prog bare: Long", "prog bare: the Example has a line", "prog bare: nothing is said of --x"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not among\n%s", want, got)
		}
	}
	if strings.Contains(got, "prog sub:") {
		t.Errorf("%s", got)
	}
}
