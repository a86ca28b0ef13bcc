package good

import (
	"maps"
	"slices"
)

// Trie is a set of words that finds all those with a given beginning. Its zero value is empty.
type Trie struct {
	next map[rune]*Trie
	word bool // whether a word ends here
}

// Add puts a word into the trie, unless it is there.
func (t *Trie) Add(word string) {
	for _, r := range word {
		child := t.next[r]
		if child == nil {
			child = new(Trie)
			if t.next == nil {
				t.next = make(map[rune]*Trie)
			}
			t.next[r] = child
		}
		t = child
	}
	t.word = true
}

// Has reports whether a word was added.
func (t *Trie) Has(word string) bool {
	end := t.descend(word)
	return end != nil && end.word
}

// Complete returns all words that begin with prefix, in alphabetical order.
func (t *Trie) Complete(prefix string) []string {
	start := t.descend(prefix)
	if start == nil {
		return nil
	}
	return start.collect(nil, []rune(prefix))
}

// descend returns where a path through the trie ends, or nil if there is no such path.
func (t *Trie) descend(path string) *Trie {
	for _, r := range path {
		if t = t.next[r]; t == nil {
			return nil
		}
	}
	return t
}

// collect appends all words below, each with the path that leads here before it.
func (t *Trie) collect(words []string, path []rune) []string {
	if t.word {
		words = append(words, string(path))
	}
	for _, r := range slices.Sorted(maps.Keys(t.next)) {
		words = t.next[r].collect(words, append(path, r))
	}
	return words
}
