package problems

import "testing"

func TestHistoryPop(t *testing.T) {
	h := &History{}
	if got, ok := h.Pop(); got != "" || ok {
		t.Errorf("of no pages Pop is %q, %v", got, ok)
	}
	h.pages = []string{"a", "b", "c"}
	for i, want := range []string{"c", "b", "a"} {
		if got, ok := h.Pop(); got != want || !ok {
			t.Errorf("Pop is %q, %v, want %q", got, ok, want)
		}
		if len(h.pages) != 2-i {
			t.Fatalf("Pop has left %v", h.pages)
		}
	}
	if got, ok := h.Pop(); got != "" || ok {
		t.Errorf("at the end Pop is %q, %v", got, ok)
	}
}
