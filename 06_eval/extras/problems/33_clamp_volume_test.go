package problems

import "testing"

func TestClampVolume(t *testing.T) {
	for _, c := range [][4]int{
		{12, 0, 10, 10}, {-3, 0, 10, 0}, {5, 0, 10, 5}, {0, 0, 10, 0}, {10, 0, 10, 10},
		{1, 2, 4, 2}, {7, 2, 4, 4}, {3, 2, 4, 3}, {9, -5, -1, -1},
	} {
		if got := ClampVolume(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("ClampVolume(%d, %d, %d) is %d, want %d", c[0], c[1], c[2], got, c[3])
		}
	}
}
