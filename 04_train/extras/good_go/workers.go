package good

import (
	"context"
	"fmt"
	"sync"
)

// ParallelMap returns f of every input, in the order of the inputs, worked out by n goroutines.
// The first error stops what has not been started yet, and is returned when all goroutines have
// ended.
func ParallelMap[T, U any](
	ctx context.Context, n int, inputs []T, f func(context.Context, T) (U, error),
) ([]U, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]U, len(inputs))
	jobs := make(chan int)

	var workers sync.WaitGroup
	for range max(1, n) {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := range jobs {
				result, err := f(ctx, inputs[i])
				if err != nil {
					cancel(fmt.Errorf("input %d: %w", i, err)) // later causes are ignored
					continue
				}
				results[i] = result // no other goroutine has this i
			}
		}()
	}
	sendIndices(ctx, jobs, len(inputs))
	workers.Wait()

	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return results, nil
}

// sendIndices sends 0 to n-1, or fewer if ctx is done, and then closes jobs.
func sendIndices(ctx context.Context, jobs chan<- int, n int) {
	defer close(jobs)
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case jobs <- i:
		case <-ctx.Done():
		}
	}
}
