package problems

import (
	"fmt"
	"testing"
)

func TestRecentAdd(t *testing.T) {
	r := &Recent{values: make([]int, 3)}
	for i, want := range []string{
		"{[10 0 0] 1 false}", "{[10 11 0] 2 false}", "{[10 11 12] 0 true}", "{[13 11 12] 1 true}",
		"{[13 14 12] 2 true}", "{[13 14 15] 0 true}", "{[16 14 15] 1 true}",
	} {
		r.Add(10 + i)
		if got := fmt.Sprint(*r); got != want {
			t.Fatalf("after Add(%d) it is %s, want %s", 10+i, got, want)
		}
	}
	one := &Recent{values: make([]int, 1)}
	one.Add(7)
	one.Add(8)
	if got := fmt.Sprint(*one); got != "{[8] 0 true}" {
		t.Errorf("with room for one number it is %s", got)
	}
}
