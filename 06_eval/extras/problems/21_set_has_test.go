package problems

import "testing"

func TestSetHas(t *testing.T) {
	s := Set{"ann": {}, "": {}}
	for name, want := range map[string]bool{"ann": true, "": true, "bob": false, "Ann": false} {
		if got := s.Has(name); got != want {
			t.Errorf("Has(%q) is %v", name, got)
		}
	}
	if len(s) != 2 || Set(nil).Has("ann") {
		t.Error("Has changes the set, or finds a name in an empty one")
	}
}
