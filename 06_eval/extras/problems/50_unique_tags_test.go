package problems

import (
	"strings"
	"testing"
)

func TestUniqueTags(t *testing.T) {
	for given, want := range map[string]string{
		"b a b c a": "b a c", "a": "a", "a a a": "a", "x y z": "x y z", "a b b a": "a b",
		"c b a b c": "c b a",
	} {
		tags := strings.Fields(given)
		if got := strings.Join(UniqueTags(tags), " "); got != want {
			t.Errorf("of %q it is %q, want %q", given, got, want)
		}
		if strings.Join(tags, " ") != given {
			t.Errorf("%q has become %q", given, tags)
		}
	}
	if got := UniqueTags(nil); len(got) != 0 {
		t.Errorf("of nothing it is %q", got)
	}
}
