package problems

import (
	"fmt"
	"strings"
	"testing"
)

func TestChunks(t *testing.T) {
	for _, c := range []struct {
		lines string
		n     int
		want  string
	}{{"a b c d e", 2, "[[a b] [c d] [e]]"}, {"a b c d", 2, "[[a b] [c d]]"}, {"", 3, "[]"},
		{"a b c", 1, "[[a] [b] [c]]"}, {"a b c", 3, "[[a b c]]"}, {"a b", 3, "[[a b]]"},
		{"a b c d", 3, "[[a b c] [d]]"}} {
		if got := fmt.Sprint(Chunks(strings.Fields(c.lines), c.n)); got != c.want {
			t.Errorf("of %q for %d they are %s, want %s", c.lines, c.n, got, c.want)
		}
	}
}
