package problems

import (
	"fmt"
	"testing"
)

func TestGroupTasks(t *testing.T) {
	tasks := []Task{
		{"bob", "wash"}, {"ann", "cook"}, {"bob", "iron"}, {"cid", "shop"}, {"bob", "fold"},
	}
	for n, want := range []string{
		"map[]",
		"map[bob:[wash]]",
		"map[ann:[cook] bob:[wash]]",
		"map[ann:[cook] bob:[wash iron]]",
		"map[ann:[cook] bob:[wash iron] cid:[shop]]",
		"map[ann:[cook] bob:[wash iron fold] cid:[shop]]",
	} {
		if got := fmt.Sprint(GroupTasks(tasks[:n])); got != want {
			t.Errorf("the groups are %s, want %s", got, want)
		}
	}
}
