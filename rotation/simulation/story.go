package simulation

import "fmt"

// replay has actions happen in a world of their own.
func replay(cfg Config, unsteady bool, actions []Action, tell func(string, ...any)) *World {
	w := newWorld(cfg, unsteady)
	w.tell = tell
	for _, a := range actions {
		w.Do(a)
		if w.violation != nil {
			break
		}
	}
	return w
}

// shrink leaves out what a violation comes to be without: halves, quarters, …
// and at last single actions.
func shrink(cfg Config, unsteady bool, actions []Action) []Action {
	rule := replay(cfg, unsteady, actions, nil).violation.Rule
	breaks := func(actions []Action) (int, bool) {
		w := replay(cfg, unsteady, actions, nil)
		return int(w.counts.Events), w.violation != nil && w.violation.Rule == rule
	}
	for size := len(actions) / 2; size > 0; {
		left := false
		for from := 0; from < len(actions); {
			fewer := append(append([]Action(nil), actions[:from]...), actions[min(from+size, len(actions)):]...)
			if n, ok := breaks(fewer); ok {
				actions, left = fewer[:n], true
				continue
			}
			from += size
		}
		if size > 1 || !left {
			size /= 2
		}
	}
	return actions
}

// tell tells what happens, a line for each thing, with the time since the world
// began.
func tell(cfg Config, unsteady bool, actions []Action) (story []string) {
	w := newWorld(cfg, unsteady)
	w.tell = func(format string, args ...any) {
		story = append(story, fmt.Sprintf("%14v  %s", w.now, fmt.Sprintf(format, args...)))
	}
	for _, a := range actions {
		w.Do(a)
	}
	return story
}
