package problems

import "testing"

func TestJobOwner(t *testing.T) {
	for _, owner := range []string{"ann", "bob", ""} {
		job := &Job{id: 7, name: "deploy", owner: owner}
		if got := job.Owner(); got != owner {
			t.Errorf("the owner is %q, want %q", got, owner)
		}
	}
}
