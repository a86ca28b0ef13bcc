package problems

import "testing"

func TestParsePair(t *testing.T) {
	for text, want := range map[string][2]string{
		" name = Ann ": {"name", "Ann"},
		"a=b":          {"a", "b"},
		"a=b=c":        {"a", "b=c"},
		"a=":           {"a", ""},
		"two words= x": {"two words", "x"},
	} {
		if key, value, err := ParsePair(text); err != nil || key != want[0] || value != want[1] {
			t.Errorf("ParsePair(%q) is %q, %q, %v", text, key, value, err)
		}
	}
	for _, text := range []string{"", "name", "=x", "  = x", "=", "a:b"} {
		if key, value, err := ParsePair(text); err == nil || key != "" || value != "" {
			t.Errorf("ParsePair(%q) is %q, %q, %v", text, key, value, err)
		}
	}
}
