package good

import (
	"context"
	"sync"
)

// Generate sends values on the channel it returns, and closes it behind the last, or when ctx is
// done.
func Generate[T any](ctx context.Context, values ...T) <-chan T {
	out := make(chan T)
	go func() {
		defer close(out)
		for _, v := range values {
			if !send(ctx, out, v) {
				return
			}
		}
	}()
	return out
}

// Stage sends f of everything that it receives, and ends when in does. Once ctx is done, it ends at
// the next value.
func Stage[T, U any](ctx context.Context, in <-chan T, f func(T) U) <-chan U {
	out := make(chan U)
	go func() {
		defer close(out)
		for v := range in {
			if !send(ctx, out, f(v)) {
				return
			}
		}
	}()
	return out
}

// FanIn sends on one channel what comes from many, in the order in which it comes, and ends when
// all of them do. Once ctx is done, it ends at the next value of each.
func FanIn[T any](ctx context.Context, ins ...<-chan T) <-chan T {
	out := make(chan T)
	var senders sync.WaitGroup
	for _, in := range ins {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for v := range in {
				if !send(ctx, out, v) {
					return
				}
			}
		}()
	}
	go func() {
		senders.Wait()
		close(out)
	}()
	return out
}

// send sends v, unless ctx is done first; it says whether it did.
func send[T any](ctx context.Context, out chan<- T, v T) bool {
	select {
	case out <- v:
		return true
	case <-ctx.Done():
		return false
	}
}
