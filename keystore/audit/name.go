package audit

import (
	"strconv"
	"strings"
)

// Log returns the name of the log the entry stands in: "lifecycle" or
// "acts/YYYY-MM".
func (l Located) Log() string { return NameOf(l.Origin) }

func isLogName(name string) bool {
	month, acts := strings.CutPrefix(name, actsName+"/")
	return name == lifecycleName || acts && isMonth(month)
}

// SplitName splits the name of an entry, ORIGIN#INDEX, and reports whether it
// is one. The origin is taken as it is: it may be the end of one, such as
// "lifecycle".
func SplitName(entry string) (origin string, index int64, ok bool) {
	origin, digits, found := strings.Cut(entry, "#")
	index, err := strconv.ParseInt(digits, 10, 64)
	ok = found && origin != "" && err == nil && index >= 0 && strconv.FormatInt(index, 10) == digits
	return origin, index, ok
}
