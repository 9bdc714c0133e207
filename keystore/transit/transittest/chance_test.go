package transittest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	secondsLeft  = regexp.MustCompile(`"(?:lease_duration|ttl)":\d+`)
	durationLeft = regexp.MustCompile(`\\"[0-9hms]+\\"`)
)

// unhurried returns an exchange as if the seconds that a slow machine took had
// not been taken from what tokens have left.
func unhurried(s string) string {
	const most = 10 * time.Second
	full := func(d time.Duration) time.Duration { return (d + most - 1).Truncate(most) }
	s = secondsLeft.ReplaceAllStringFunc(s, func(m string) string {
		name, text, _ := strings.Cut(m, ":")
		n, err := strconv.Atoi(text)
		if err != nil {
			return m
		}
		return fmt.Sprintf("%s:%d", name, full(time.Duration(n)*time.Second)/time.Second)
	})
	return durationLeft.ReplaceAllStringFunc(s, func(m string) string {
		d, err := time.ParseDuration(strings.Trim(m, `\"`))
		if err != nil {
			return m
		}
		return `\"` + full(d).String() + `\"`
	})
}

// sameButForChance allows for signatures whose base64 shows no difference
// between the two alphabets.
func sameButForChance(a, b string) bool {
	if a == b {
		return true
	}
	re := regexp.MustCompile(`…(standard |URL )?base64`)
	if !strings.Contains(a, "…base64") && !strings.Contains(b, "…base64") {
		return false
	}
	return re.ReplaceAllString(a, "") == re.ReplaceAllString(b, "")
}
