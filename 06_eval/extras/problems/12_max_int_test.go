package problems

import "testing"

func TestMaxInt(t *testing.T) {
	for _, c := range [][3]int{{1, 2, 2}, {2, 1, 2}, {-3, -5, -3}, {-5, 0, 0}, {4, 4, 4}, {9, -9, 9}} {
		if got := MaxInt(c[0], c[1]); got != c[2] {
			t.Errorf("MaxInt(%d, %d) is %d, want %d", c[0], c[1], got, c[2])
		}
	}
}
