package problems

import (
	"sort"
	"testing"
)

func TestByAgeLess(t *testing.T) {
	people := ByAge{{"zoe", 30}, {"ann", 41}, {"bob", 30}}
	for i, row := range [][]bool{{false, true, false}, {false, false, false}, {false, true, false}} {
		for j, want := range row {
			if got := people.Less(i, j); got != want {
				t.Errorf("Less(%d, %d) is %v", i, j, got)
			}
		}
	}
	people = ByAge{{"a", 5}, {"b", 1}, {"c", 3}}
	sort.Sort(people)
	if people[0].Age != 1 || people[1].Age != 3 || people[2].Age != 5 {
		t.Errorf("sorted: %v", people)
	}
}
