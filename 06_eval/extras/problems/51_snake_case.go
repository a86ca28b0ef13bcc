package problems

import (
	"strings"
	"unicode"
)

// SnakeCase writes a name in small letters, with a "_" before each letter that was a capital, but
// not at the beginning. SnakeCase("MaxLineWidth") is "max_line_width".
func SnakeCase(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteRune('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
