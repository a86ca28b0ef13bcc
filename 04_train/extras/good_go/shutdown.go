package good

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// Service is something that runs until its context is done.
type Service func(context.Context) error

// RunAll runs all services at once. When one of them fails, or ctx is done, the others are told to
// stop, and have so long as grace to do it. It returns the errors of all, nil if all ended well;
// that a service was told to stop is no error.
func RunAll(ctx context.Context, grace time.Duration, services ...Service) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(services)) // room for all: none is stuck if we give up
	for _, run := range services {
		go func() { ended <- run(ctx) }()
	}

	var problems []error
	var late <-chan time.Time // nil, from which nothing comes, until they are told to stop
	done := ctx.Done()
	for running := len(services); running > 0; {
		select {
		case err := <-ended:
			running--
			if err != nil && !errors.Is(err, ctx.Err()) {
				problems = append(problems, err)
				stop()
			}
		case <-done:
			done, late = nil, time.After(grace)
		case <-late:
			problems = append(problems, fmt.Errorf("%d services did not stop in %v", running, grace))
			return errors.Join(problems...)
		}
	}
	return errors.Join(problems...)
}

// RunUntilInterrupted is RunAll until the user presses Ctrl-C. If that is pressed again, the
// program ends at once.
func RunUntilInterrupted(grace time.Duration, services ...Service) error {
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt)
	defer restore()
	context.AfterFunc(ctx, restore) // from then on the signal does what it does by default
	return RunAll(ctx, grace, services...)
}
