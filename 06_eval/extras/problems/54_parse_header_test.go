package problems

import (
	"fmt"
	"testing"
)

func TestParseHeader(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "map[]",
		"Host: example.org":          "map[host:example.org]",
		"a: 1\nB:2\n\n  c  :  x y  ": "map[a:1 b:2 c:x y]",
		"no colon\nkey: v: w\n":      "map[key:v: w]",
		"#a: 1\nb: #2\n":             "map[b:#2]",
		"a: 1\nA: 2":                 "map[a:2]",
		"empty:":                     "map[empty:]",
	} {
		if got := fmt.Sprint(ParseHeader(text)); got != want {
			t.Errorf("ParseHeader(%q) is %s, want %s", text, got, want)
		}
	}
}
