package problems

import "testing"

func TestAddressString(t *testing.T) {
	for a, want := range map[Address]string{
		{"localhost", 80}:     "localhost:80",
		{"example.org", 8080}: "example.org:8080",
		{"", 0}:               ":0",
	} {
		if got := a.String(); got != want {
			t.Errorf("String returns %q, want %q", got, want)
		}
	}
}
