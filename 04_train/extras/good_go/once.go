package good

import "sync"

// Event happens once, and many can wait for it. Its zero value has not happened yet.
type Event struct {
	made, fired sync.Once
	channel     chan struct{}
}

func (e *Event) wait() chan struct{} {
	e.made.Do(func() { e.channel = make(chan struct{}) })
	return e.channel
}

// Fire makes the event happen. It may be called again, by any goroutine, and then does nothing.
func (e *Event) Fire() {
	e.fired.Do(func() { close(e.wait()) })
}

// Done returns a channel that is closed when the event happens, for use in a select.
func (e *Event) Done() <-chan struct{} {
	return e.wait()
}

// Happened reports whether the event has happened, and does not wait for it.
func (e *Event) Happened() bool {
	select {
	case <-e.Done():
		return true
	default:
		return false
	}
}

// Memo returns a function that calls f once for each argument and remembers the result. It is safe
// for concurrent use, if f is. Calls for different arguments do not wait for each other.
func Memo[K comparable, V any](f func(K) V) func(K) V {
	var mu sync.Mutex
	results := make(map[K]func() V)
	return func(key K) V {
		mu.Lock()
		result, ok := results[key]
		if !ok {
			result = sync.OnceValue(func() V { return f(key) })
			results[key] = result
		}
		mu.Unlock() // before f runs, which may take long or call this function again
		return result()
	}
}
