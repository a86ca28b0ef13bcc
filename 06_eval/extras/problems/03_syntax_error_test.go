package problems

import "testing"

func TestSyntaxError(t *testing.T) {
	for _, msg := range []string{"missing brace", "unexpected name", ""} {
		var err error = &SyntaxError{line: 3, msg: msg}
		if got := err.Error(); got != msg {
			t.Errorf("the error says %q, want %q", got, msg)
		}
	}
}
