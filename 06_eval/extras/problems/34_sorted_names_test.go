package problems

import (
	"strings"
	"testing"
)

func TestSortedNames(t *testing.T) {
	ages := map[string]int{"eve": 3, "ann": 9, "dan": 1, "bob": 5, "cid": 2}
	for i := 0; i < 5; i++ { // the order of a map is another each time
		if got := SortedNames(ages); strings.Join(got, " ") != "ann bob cid dan eve" {
			t.Fatalf("the names are %q", got)
		}
	}
	if got := SortedNames(nil); len(got) != 0 {
		t.Errorf("of no ages the names are %q", got)
	}
	if got := SortedNames(map[string]int{"zoe": 0}); len(got) != 1 || got[0] != "zoe" {
		t.Errorf("of one age the names are %q", got)
	}
}
