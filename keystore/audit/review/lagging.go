package review

import (
	"fmt"
	"time"
)

// witnessLag is how long a log may go on after what witnesses know of it. They are
// asked all the time, and are away for minutes when they are restarted.
const witnessLag = time.Hour

// lagging tells of logs that went on in the period for longer than witnesses take after
// what they know. Of a log that no witness knows the report says so.
func (c *counting) lagging() (found []Deviation) {
	for _, checked := range c.opt.Checked {
		if checked.Report == nil {
			continue
		}
		for i := range checked.Report.Logs {
			l := &checked.Report.Logs[i]
			last := l.Last
			if !c.opt.before(last) {
				last = c.opt.Until
			}
			if l.Witnessed == nil || l.Unwitnessed() == 0 || last.Sub(l.Witnessed.Time) <= witnessLag || last.Before(c.opt.Since) {
				continue
			}
			found = append(found, Deviation{
				Severity: Attention, At: l.Witnessed.Time.UTC(), Entries: []string{fmt.Sprintf("%s#%d", l.Origin, l.Witnessed.Size)},
				Text: fmt.Sprintf("witnesses know %s/%s as it was at %s UTC: of %d entries since, until %s UTC, they know nothing",
					shortNode(checked.Node), l.Name, clock(l.Witnessed.Time), l.Unwitnessed(), clock(l.Last)),
			})
		}
	}
	return found
}
