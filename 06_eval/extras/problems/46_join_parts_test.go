package problems

import (
	"strings"
	"testing"
)

func TestJoinParts(t *testing.T) {
	for given, want := range map[string]string{
		"a/||/b/c": "a/b/c", "": "", "|": "", "/": "", "a": "a", "/a/": "a", "a|b|c": "a/b/c",
		"//a//|//b": "a/b", "x/y|z.go": "x/y/z.go", "/|a|/": "a",
	} {
		parts := strings.Split(given, "|")
		if got := JoinParts(parts...); got != want {
			t.Errorf("JoinParts of %q is %q, want %q", parts, got, want)
		}
	}
	if got := JoinParts(); got != "" {
		t.Errorf("JoinParts of nothing is %q", got)
	}
}
