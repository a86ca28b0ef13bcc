package problems

import "testing"

func TestPointIsZero(t *testing.T) {
	for p, want := range map[Point]bool{
		{0, 0}: true, {0, 2}: false, {3, 0}: false, {1, 1}: false, {1, -1}: false, {-1, 0}: false,
	} {
		if got := p.IsZero(); got != want {
			t.Errorf("for %v IsZero is %v", p, got)
		}
	}
}
