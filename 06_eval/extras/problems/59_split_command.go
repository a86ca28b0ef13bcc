package problems

import "strings"

// SplitCommand cuts a command line into words at spaces; what is between two quotes is one word,
// without the quotes, even if it has spaces or is empty. A quote begins and ends a word.
// SplitCommand of git commit -m "one two" is git, commit, -m, one two.
func SplitCommand(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "\"") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
