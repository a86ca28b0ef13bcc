package problems

import "sync"

// Hits counts the hits of a page. Several goroutines may use it at once.
type Hits struct {
	mu    sync.Mutex
	count int
}

// Count returns the number of hits.
func (h *Hits) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// Add adds n to the count while it holds the lock.
func (h *Hits) Add(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count += n
}
