package problems

import "testing"

func TestPortOr(t *testing.T) {
	for text, want := range map[string]int{
		"80": 80, "x": 1, "": 1, "8080": 8080, "0": 0, "80x": 1, "-7": -7,
	} {
		if got := PortOr(text, 1); got != want {
			t.Errorf("PortOr(%q, 1) is %d, want %d", text, got, want)
		}
	}
	if got := PortOr("x", 443); got != 443 {
		t.Errorf(`PortOr("x", 443) is %d`, got)
	}
}
