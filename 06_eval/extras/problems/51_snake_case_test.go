package problems

import "testing"

func TestSnakeCase(t *testing.T) {
	for name, want := range map[string]string{
		"MaxLineWidth": "max_line_width", "": "", "x": "x", "X": "x", "userName": "user_name",
		"already": "already", "aB": "a_b", "userID": "user_i_d", "Zoë2Äpfel": "zoë2_äpfel",
	} {
		if got := SnakeCase(name); got != want {
			t.Errorf("SnakeCase(%q) is %q, want %q", name, got, want)
		}
	}
}
