package good

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Wrap breaks a text into lines of at most width characters, between words. A word that is longer
// has a line of its own.
// >>> strings.Join(Wrap("a cat sat on the mat", 8), "/")
// a cat/sat on/the mat
func Wrap(text string, width int) []string {
	var lines []string
	length := 0 // of the last line
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if len(lines) > 0 && length+1+n <= width {
			lines[len(lines)-1] += " " + word
			length += 1 + n
			continue
		}
		lines = append(lines, word)
		length = n
	}
	return lines
}

// Table lays rows out in columns, each as wide as its widest cell and two spaces apart from the
// next. Rows may have different lengths. No line ends in a space.
func Table(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&line, "%-*s  ", widths[i], cell)
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}
