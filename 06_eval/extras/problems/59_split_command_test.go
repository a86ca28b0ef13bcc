package problems

import (
	"strings"
	"testing"
)

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string]string{
		`git commit -m "one two"`: "git|commit|-m|one two",
		`ls`:                      "ls",
		`  ls   -l  `:             "ls|-l",
		`"a b" c "d  e"`:          "a b|c|d  e",
		`x "" y`:                  "x||y",
		`" a " b`:                 " a |b",
		`say "it" "is"`:           "say|it|is",
	} {
		if got := strings.Join(SplitCommand(line), "|"); got != want {
			t.Errorf("of %s it is %q, want %q", line, got, want)
		}
	}
	if got := SplitCommand("  "); len(got) != 0 {
		t.Errorf("of spaces it is %q", got)
	}
}
