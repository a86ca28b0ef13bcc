package problems

import "testing"

func TestFullName(t *testing.T) {
	for _, u := range []User{{"Ada", "Lovelace"}, {"Alan", "Turing"}, {"a", "b"}} {
		if got := u.FullName(); got != u.First+" "+u.Last {
			t.Errorf("the full name of %+v is %q", u, got)
		}
	}
}
