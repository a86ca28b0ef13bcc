package problems

import "strings"

// CountWords returns how often each word is in text. Words have spaces between them.
// CountWords("a b a") is map[a:2 b:1].
func CountWords(text string) map[string]int {
	counts := make(map[string]int)
	for _, word := range strings.Fields(text) {
		counts[word]++
	}
	return counts
}
