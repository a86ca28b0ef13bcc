package problems

import "testing"

func TestNewServer(t *testing.T) {
	a, b := NewServer("localhost", 80), NewServer("example.org", 8080)
	if a == nil || b == nil {
		t.Fatal("NewServer returns nil")
	}
	if *a != (Server{"localhost", 80}) || *b != (Server{"example.org", 8080}) {
		t.Errorf("the servers are %+v and %+v", *a, *b)
	}
}
