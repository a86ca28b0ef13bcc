package problems

import (
	"fmt"
	"testing"
)

func TestOverlay(t *testing.T) {
	type m = map[string]int
	for _, c := range []struct {
		base, changes m
		want          string
	}{
		{m{"a": 1, "b": 2}, m{"b": 3, "c": 4}, "map[a:1 b:3 c:4]"},
		{m{"a": 1}, nil, "map[a:1]"},
		{nil, m{"z": 9}, "map[z:9]"},
		{nil, nil, "map[]"},
		{m{"a": 1}, m{"a": 0}, "map[a:0]"},
	} {
		before := fmt.Sprint(c.base, c.changes)
		got := Overlay(c.base, c.changes)
		if fmt.Sprint(got) != c.want {
			t.Errorf("%v with the changes %v is %v, want %s", c.base, c.changes, got, c.want)
		}
		if got == nil {
			t.Fatal("the map is nil")
		}
		got["new"] = 1
		if fmt.Sprint(c.base, c.changes) != before {
			t.Errorf("%s has become %v %v", before, c.base, c.changes)
		}
	}
}
