package good

import (
	"errors"
	"fmt"
)

// ErrRoman is what ParseRoman wraps when its text is not a Roman number.
var ErrRoman = errors.New("not a Roman number")

var romanValues = map[rune]int{
	'I': 1, 'V': 5, 'X': 10, 'L': 50, 'C': 100, 'D': 500, 'M': 1000,
}

// ParseRoman returns the value of a number in capital Roman numerals. A letter before a greater
// one is taken away. It does not insist on the shortest way to write a number: IIII is 4, too.
// >>> ParseRoman("XIV")
// 14 <nil>
// >>> ParseRoman("MCMXCVIII")
// 1998 <nil>
// >>> ParseRoman("XA")
// 0 "XA": 'A': not a Roman number
func ParseRoman(text string) (int, error) {
	if text == "" {
		return 0, fmt.Errorf("empty text: %w", ErrRoman)
	}
	total, before := 0, 0
	for _, r := range text {
		value, ok := romanValues[r]
		if !ok {
			return 0, fmt.Errorf("%q: %q: %w", text, r, ErrRoman)
		}
		total += value
		if before < value {
			total -= 2 * before // it was added, and should have been taken away
		}
		before = value
	}
	return total, nil
}
