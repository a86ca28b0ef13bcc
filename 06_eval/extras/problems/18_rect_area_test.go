package problems

import (
	"math"
	"testing"
)

func TestRectArea(t *testing.T) {
	for r, want := range map[Rect]float64{{2, 3}: 6, {0.5, 7}: 3.5, {4, 4}: 16, {0, 9}: 0, {1, 1}: 1} {
		if got := r.Area(); !(math.Abs(got-want) <= 1e-9) {
			t.Errorf("the area of %v is %v, want %v", r, got, want)
		}
	}
}
