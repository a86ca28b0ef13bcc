package problems

import "testing"

func TestStatusText(t *testing.T) {
	for code, want := range map[int]string{200: "OK", 404: "Not Found", 500: "Internal Server Error",
		201: "Unknown", 0: "Unknown", -1: "Unknown", 418: "Unknown"} {
		if got := StatusText(code); got != want {
			t.Errorf("StatusText(%d) is %q, want %q", code, got, want)
		}
	}
}
