package problems

import (
	"fmt"
	"testing"
)

func TestFilter(t *testing.T) {
	numbers := []int{5, 2, 8, 3, 6}
	for want, keep := range map[string]func(int) bool{
		"[2 8 6]":     func(n int) bool { return n%2 == 0 },
		"[5 3]":       func(n int) bool { return n%2 == 1 },
		"[]":          func(n int) bool { return n > 9 },
		"[5 2 8 3 6]": func(n int) bool { return n < 9 },
	} {
		if got := fmt.Sprint(Filter(numbers, keep)); got != want {
			t.Errorf("kept are %s, want %s", got, want)
		}
		if got := fmt.Sprint(numbers); got != "[5 2 8 3 6]" {
			t.Fatalf("the items were changed to %s", got)
		}
	}
	words := Filter([]string{"a", "", "b"}, func(s string) bool { return s != "" })
	if len(words) != 2 || words[0] != "a" || words[1] != "b" {
		t.Errorf("the words are %q", words)
	}
}
