package problems

import (
	"fmt"
	"strings"
)

// Stock says how many there are of something.
type Stock struct {
	Name  string
	Count int
}

// FormatStock returns a line for each stock: its name, spaces up to the length of the longest name,
// two more spaces, its count, and "\n". Names are in ASCII.
func FormatStock(stocks []Stock) string {
	width := 0
	for _, s := range stocks {
		width = max(width, len(s.Name))
	}
	var b strings.Builder
	for _, s := range stocks {
		fmt.Fprintf(&b, "%-*s  %d\n", width, s.Name, s.Count)
	}
	return b.String()
}
