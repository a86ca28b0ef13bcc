package good

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// WordCount is a word and how often it was seen.
type WordCount struct {
	Word  string
	Count int
}

// TopWords reads all of r and returns its n most frequent words, the most frequent first, equally
// frequent ones in alphabetical order. Small and capital letters are the same, and signs around
// a word do not belong to it.
// >>> TopWords(strings.NewReader("The dog. The cat! A dog? \"The End\""), 2)
// [{the 3} {dog 2}] <nil>
func TopWords(r io.Reader, n int) ([]WordCount, error) {
	counts := make(map[string]int)
	scanner := bufio.NewScanner(r)
	scanner.Split(bufio.ScanWords)
	for scanner.Scan() {
		if word := strings.TrimFunc(scanner.Text(), notInWord); word != "" {
			counts[strings.ToLower(word)]++
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("count words: %w", err)
	}
	top := make([]WordCount, 0, len(counts))
	for word, count := range counts {
		top = append(top, WordCount{word, count})
	}
	slices.SortFunc(top, func(a, b WordCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Word, b.Word))
	})
	return top[:min(n, len(top))], nil
}

func notInWord(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r)
}
