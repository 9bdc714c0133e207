package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Gaps returns what the commands below root do not tell: a Short, a Long that
// says more, an Example unless a command only holds others, and of each flag what
// it is for. What cobra brings along tells for itself.
func Gaps(root *cobra.Command) (gaps []string) {
	for _, c := range Commands(root) {
		if c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			continue
		}
		gap := func(format string, args ...any) {
			gaps = append(gaps, c.CommandPath()+": "+fmt.Sprintf(format, args...))
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			gap("Short is %q: a phrase, without a full stop", c.Short)
		}
		if len(c.Long) < len(c.Short)+20 {
			gap("Long says no more than Short")
		}
		if c.Example == "" && len(c.Commands()) == 0 {
			gap("there is no Example")
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				gap("the Example has a line that is not indented by two: %q", line)
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				gap("nothing is said of --%s", f.Name)
			}
		})
	}
	return gaps
}
