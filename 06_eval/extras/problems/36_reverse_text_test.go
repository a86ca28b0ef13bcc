package problems

import "testing"

func TestReverseText(t *testing.T) {
	for text, want := range map[string]string{
		"né!": "!én", "": "", "a": "a", "ab": "ba", "abc": "cba", "stone": "enots", "日本語": "語本日",
	} {
		if got := ReverseText(text); got != want {
			t.Errorf("ReverseText(%q) is %q, want %q", text, got, want)
		}
	}
}
