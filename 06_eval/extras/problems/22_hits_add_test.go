package problems

import (
	"testing"
	"time"
)

func TestHitsAdd(t *testing.T) {
	h := &Hits{}
	for _, want := range []int{2, 7, 6} {
		h.Add(want - h.count)
		if h.count != want {
			t.Errorf("the count is %d, want %d", h.count, want)
		}
		if !h.mu.TryLock() {
			t.Fatal("Add keeps the lock")
		}
		h.mu.Unlock()
	}
	done := make(chan bool)
	h.mu.Lock()
	go func() {
		h.Add(1)
		close(done)
	}()
	select {
	case <-done:
		t.Fatal("Add does not wait for the lock")
	case <-time.After(5 * time.Millisecond):
	}
	h.mu.Unlock()
	<-done
}
