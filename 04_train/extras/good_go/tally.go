package good

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// Tally counts things by name. Its zero value is ready for use, by many goroutines at once.
type Tally struct {
	mu     sync.RWMutex
	counts map[string]int
}

// Add adds n to the count of name.
func (t *Tally) Add(name string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[name] += n
}

// Get returns the count of name: 0 if it was never added.
func (t *Tally) Get(name string) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.counts[name]
}

// Snapshot returns a copy of all counts, which later calls of Add do not change.
func (t *Tally) Snapshot() map[string]int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.counts)
}

// ByCount returns the names in counts, the largest count first, equal ones in alphabetical order.
// >>> ByCount(map[string]int{"pear": 2, "apple": 2, "fig": 7})
// [fig apple pear]
func ByCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}
