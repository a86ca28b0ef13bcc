package problems

import "testing"

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{{"hello", 3, "hel..."}, {"hello", 5, "hello"}, {"hello", 4, "hell..."}, {"hello", 9, "hello"},
		{"", 0, ""}, {"x", 0, "..."}, {"äöü", 3, "äöü"}, {"äöü", 2, "äö..."}} {
		if got := Shorten(c.text, c.n); got != c.want {
			t.Errorf("Shorten(%q, %d) is %q, want %q", c.text, c.n, got, c.want)
		}
	}
}
