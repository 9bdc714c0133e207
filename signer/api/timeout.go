package api

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// RequestTimeout is the header in which a caller says how long it waits for the
// answer: a decimal number of seconds, "2" or "0.25". What is not done by then is not
// done, as far as the key has not been asked, and the answer says so. gRPC has
// grpc-timeout for that.
const RequestTimeout = "Request-Timeout"

var errTimeout = errors.New("want seconds from 0.001 on, such as 2 or 0.25")

// ParseTimeout reads the value of RequestTimeout: at most five digits, and three after
// the point. There is one spelling of each value but for zeros at the end.
func ParseTimeout(s string) (time.Duration, error) {
	whole, part, point := strings.Cut(s, ".")
	if point && (part == "" || len(part) > 3) || whole == "" || len(whole) > 5 || len(whole) > 1 && whole[0] == '0' {
		return 0, errTimeout
	}
	if strings.Trim(whole+part, "0123456789") != "" {
		return 0, errTimeout
	}
	ms, err := strconv.Atoi(whole + (part + "000")[:3])
	if err != nil || ms == 0 {
		return 0, errTimeout
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// FormatTimeout returns what ParseTimeout reads: the milliseconds that are in d, at
// least one, and a day at most.
func FormatTimeout(d time.Duration) string {
	ms := min(max(d.Milliseconds(), 1), (24 * time.Hour).Milliseconds())
	s := strconv.FormatInt(ms/1000, 10)
	if ms%1000 != 0 {
		s += "." + strconv.FormatInt(1000+ms%1000, 10)[1:]
	}
	return s
}
