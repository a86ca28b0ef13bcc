package problems

import "testing"

func TestStackIsEmpty(t *testing.T) {
	for _, items := range [][]int{nil, {}, {0}, {1}, {5, 6}} {
		s := &Stack{items: items}
		if got := s.IsEmpty(); got != (len(items) == 0) {
			t.Errorf("with %v IsEmpty is %v", items, got)
		}
	}
}
