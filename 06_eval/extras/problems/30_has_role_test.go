package problems

import "testing"

func TestHasRole(t *testing.T) {
	m := Member{"ann", []string{"admin", "editor", "guest"}}
	for role, want := range map[string]bool{
		"admin": true, "editor": true, "guest": true, "ann": false, "": false, "edit": false,
	} {
		if got := m.HasRole(role); got != want {
			t.Errorf("HasRole(%q) is %v", role, got)
		}
	}
	if (Member{}).HasRole("") {
		t.Error("a member without roles has one")
	}
}
