package good

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ErrDuration is what ParseSpan wraps when its text is not a span of time.
var ErrDuration = errors.New("not a span of time")

var spanUnits = map[string]time.Duration{
	"d": 24 * time.Hour,
	"h": time.Hour,
	"m": time.Minute,
	"s": time.Second,
}

// ParseSpan reads a span of time as people write it: whole days, hours, minutes and seconds,
// with or without spaces between them. A day has 24 hours.
// >>> ParseSpan("1d 2h")
// 26h0m0s <nil>
// >>> ParseSpan("90s")
// 1m30s <nil>
// >>> ParseSpan("5x")
// 0s "5x": unknown unit "x": not a span of time
func ParseSpan(text string) (time.Duration, error) {
	fail := func(why string) (time.Duration, error) {
		return 0, fmt.Errorf("%q: %s: %w", text, why, ErrDuration)
	}
	rest := strings.ReplaceAll(text, " ", "")
	if rest == "" {
		return fail("empty")
	}
	var total time.Duration
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		switch {
		case digits == 0:
			return fail("a number is missing")
		case digits == len(rest):
			return fail("a unit is missing")
		}
		unit, ok := spanUnits[rest[digits:digits+1]]
		if !ok {
			return fail(fmt.Sprintf("unknown unit %q", rest[digits:]))
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil || n > int64((math.MaxInt64-total)/unit) {
			return fail("longer than a time.Duration can be")
		}
		total += time.Duration(n) * unit
		rest = rest[digits+1:]
	}
	return total, nil
}
