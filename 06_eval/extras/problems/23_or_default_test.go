package problems

import "testing"

func TestOrDefault(t *testing.T) {
	for _, c := range [][3]string{{"", "main", "main"}, {"dev", "main", "dev"}, {"", "x", "x"},
		{" ", "x", " "}, {"a", "", "a"}, {"", "", ""}} {
		if got := OrDefault(c[0], c[1]); got != c[2] {
			t.Errorf("OrDefault(%q, %q) is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
