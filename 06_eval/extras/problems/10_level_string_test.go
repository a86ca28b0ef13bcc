package problems

import "testing"

func TestLevelString(t *testing.T) {
	for level, want := range map[Level]string{LevelInfo: "info", LevelError: "error", "x": "x"} {
		if got := level.String(); got != want {
			t.Errorf("String returns %q, want %q", got, want)
		}
	}
}
