package problems

import (
	"sort"
	"testing"
)

func TestBySizeSwap(t *testing.T) {
	a, b, c := File{"a", 10}, File{"b", 20}, File{"c", 5}
	files := BySize{a, b, c}
	files.Swap(0, 2)
	if files[0] != c || files[1] != b || files[2] != a {
		t.Errorf("after Swap(0, 2): %v", files)
	}
	files.Swap(1, 1)
	if files[1] != b {
		t.Errorf("after Swap(1, 1): %v", files)
	}
	sort.Sort(files)
	if files[0] != c || files[1] != a || files[2] != b {
		t.Errorf("sorted: %v", files)
	}
}
