package good

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrRuns is what Unpack wraps when its text is nothing that Pack can have made.
var ErrRuns = errors.New("not packed text")

// Pack writes each run of equal characters as their number and one of them. The text must not
// hold digits, which would be taken for numbers.
// >>> Pack("aaabccd")
// 3a1b2c1d
func Pack(text string) string {
	var b strings.Builder
	runes := []rune(text)
	for start := 0; start < len(runes); {
		end := start + 1
		for end < len(runes) && runes[end] == runes[start] {
			end++
		}
		b.WriteString(strconv.Itoa(end - start))
		b.WriteRune(runes[start])
		start = end
	}
	return b.String()
}

// Unpack is the inverse of Pack. The text it makes has at most limit characters, so that a few
// bytes from a stranger cannot fill the memory.
// >>> Unpack("3a1b", 100)
// aaab <nil>
func Unpack(packed string, limit int) (string, error) {
	var b strings.Builder
	count, digits := 0, 0
	for _, r := range packed {
		if '0' <= r && r <= '9' {
			count = 10*count + int(r-'0')
			digits++
		} else if digits == 0 {
			return "", fmt.Errorf("%q: no number before %q: %w", packed, r, ErrRuns)
		} else {
			b.WriteString(strings.Repeat(string(r), count))
			limit -= count
			count, digits = 0, 0
		}
		if count > limit {
			return "", fmt.Errorf("%q: longer than allowed: %w", packed, ErrRuns)
		}
	}
	if digits > 0 {
		return "", fmt.Errorf("%q: ends in a number: %w", packed, ErrRuns)
	}
	return b.String(), nil
}
