package problems

import (
	"fmt"
	"testing"
)

func TestTranspose(t *testing.T) {
	for _, c := range []struct {
		table [][]string
		want  string
	}{
		{[][]string{{"1", "2", "3"}, {"4", "5", "6"}}, "[[1 4] [2 5] [3 6]]"},
		{[][]string{{"a", "b"}, {"c", "d"}}, "[[a c] [b d]]"},
		{[][]string{{"a"}, {"b"}, {"c"}}, "[[a b c]]"},
		{[][]string{{"a", "b", "c"}}, "[[a] [b] [c]]"},
		{[][]string{{"x"}}, "[[x]]"},
	} {
		before := fmt.Sprint(c.table)
		if got := fmt.Sprint(Transpose(c.table)); got != c.want {
			t.Errorf("of %v it is %s, want %s", c.table, got, c.want)
		}
		if fmt.Sprint(c.table) != before {
			t.Errorf("%s has become %v", before, c.table)
		}
	}
}
