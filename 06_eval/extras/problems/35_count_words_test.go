package problems

import (
	"fmt"
	"testing"
)

func TestCountWords(t *testing.T) {
	for text, want := range map[string]string{
		"a b a":             "map[a:2 b:1]",
		"":                  "map[]",
		"  one   two  ":     "map[one:1 two:1]",
		"x x x y x":         "map[x:4 y:1]",
		"The the thethe\nx": "map[The:1 the:1 thethe:1 x:1]",
	} {
		if got := fmt.Sprint(CountWords(text)); got != want {
			t.Errorf("CountWords(%q) is %s, want %s", text, got, want)
		}
	}
}
