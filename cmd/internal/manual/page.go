// Package manual makes man pages of a tree of commands: a page for each, from
// its Short, Long and Example and from its flags.
//
//	err := manual.Write(dir, root, "1", manual.Source())
//
// A Long is plain text: paragraphs, which are filled, and lines that begin with
// white space, which stay as they are. That is why the pages are not made by
// cobra's own generator, which reads it as Markdown.
package manual

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A Build is what a page says of the program that it is of.
type Build struct {
	Version string
	Date    time.Time // of the commit
}

// Source returns what the linker wrote into this program; where it wrote no date,
// today's.
func Source() Build {
	b := Build{Version: "devel", Date: time.Now()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			b.Date = t
		}
	}
	return b
}

// Command returns the hidden command "man DIR", which writes the pages of the
// whole tree that it is in.
func Command(section string, failed func(error) error) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages into a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := Write(args[0], cmd.Root(), section, Source()); err != nil {
				return failed(err)
			}
			return nil
		},
	}
}

// Write writes the page of every command below root, root's first, into dir,
// which is made if it is not there: NAME-SUB.SECTION.
func Write(dir string, root *cobra.Command, section string, b Build) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing man pages: %w", err)
	}
	for _, c := range Commands(root) {
		path := filepath.Join(dir, Name(c)+"."+section)
		if err := os.WriteFile(path, Page(c, section, b), 0o644); err != nil {
			return fmt.Errorf("writing man pages: %w", err)
		}
	}
	return nil
}

// Commands returns root and every command below it that has a page: those that
// help shows.
func Commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			all = append(all, Commands(c)...)
		}
	}
	return all
}

// Name is what the page of a command is called.
func Name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// Page returns the page of a command, in the man(7) language.
func Page(c *cobra.Command, section string, b Build) []byte {
	c.InitDefaultHelpFlag()
	var p page
	p.line(`.TH "%s" "%s" "%s" "%s %s" "Chancery"`,
		escape(strings.ToUpper(Name(c))), section, b.Date.UTC().Format(time.DateOnly), c.Root().Name(), escape(b.Version))
	p.section("NAME")
	p.line(`%s \- %s`, escape(Name(c)), escape(lowered(c.Short)))
	p.section("SYNOPSIS")
	p.line(`.B %s`, escape(c.CommandPath()))
	if rest := strings.TrimPrefix(c.UseLine(), c.CommandPath()); strings.TrimSpace(rest) != "" {
		p.line(`%s`, escape(strings.TrimSpace(rest)))
	}
	p.section("DESCRIPTION")
	p.prose(described(c))
	if len(Commands(c)) > 1 {
		p.section("COMMANDS")
		for _, sub := range Commands(c)[1:] {
			if sub.Parent() == c {
				p.line(".TP\n.BR %s (%s)\n%s", escape(Name(sub)), section, escape(sub.Short))
			}
		}
	}
	p.flags("OPTIONS", c.NonInheritedFlags())
	p.flags("GLOBAL OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		p.section("EXAMPLES")
		p.asItIs(strings.Split(c.Example, "\n"))
	}
	if c.HasParent() {
		p.section("SEE ALSO")
		p.line(".BR %s (%s)", escape(Name(c.Parent())), section)
	}
	return []byte(p.String())
}

// described is what a command does: its Long, or Short if there is no more to say.
func described(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

// lowered begins in lower case, as the name line does, unless it begins with a
// word that is written so.
func lowered(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// page is a page as it is written.
type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *page) section(name string) { p.line(".SH %s", strings.ReplaceAll(name, " ", `\ `)) }

// prose writes paragraphs.
func (p *page) prose(text string) {
	first := true
	for paragraph := range strings.SplitSeq(strings.Trim(text, "\n"), "\n\n") {
		lines := strings.Split(paragraph, "\n")
		if !first {
			p.line(".PP")
		}
		first = false
		for len(lines) > 0 {
			n := len(lines)
			for i, l := range lines {
				if indented(l) != indented(lines[0]) {
					n = i
					break
				}
			}
			if indented(lines[0]) {
				p.asItIs(lines[:n])
			} else {
				p.line("%s", escape(strings.Join(lines[:n], "\n")))
			}
			lines = lines[n:]
		}
	}
}

func indented(line string) bool { return strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") }

// asItIs writes lines that are not filled.
func (p *page) asItIs(lines []string) {
	p.line(".nf")
	for _, l := range lines {
		p.line("%s", escape(strings.ReplaceAll(l, "\t", "        ")))
	}
	p.line(".fi")
}

func (p *page) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := `\fB` + escape("--"+f.Name) + `\fR`
		if f.Shorthand != "" {
			name = `\fB` + escape("-"+f.Shorthand) + `\fR, ` + name
		}
		if value != "" {
			name += ` \fI` + escape(value) + `\fR`
		}
		if shown := defaultOf(f); shown != "" {
			usage += " (default " + shown + ")"
		}
		p.line(".TP\n%s\n%s", name, escape(usage))
	})
}

// defaultOf is what help shows of a flag's default.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return ""
	}
	return f.DefValue
}

// escape writes text so that it is read as it stands: groff makes other
// characters of some of ASCII, and takes a line that begins with a dot or an
// apostrophe for a request.
func escape(text string) string {
	text = strings.NewReplacer(
		`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`, `"`, `\(dq`,
	).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
