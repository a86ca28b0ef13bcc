package problems

import "testing"

func TestHandlerFunc(t *testing.T) {
	var hello Handler = HandlerFunc(func(name string) string { return "hello " + name })
	if got := hello.Handle("ann"); got != "hello ann" {
		t.Errorf("the answer is %q, want %q", got, "hello ann")
	}
	calls := 0
	count := HandlerFunc(func(string) string { calls++; return "ok" })
	if got := count.Handle(""); got != "ok" || calls != 1 {
		t.Errorf("the answer is %q, and f was called %d times", got, calls)
	}
}
