package good

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrPermanent marks, when it is wrapped, an error that another attempt would not mend.
var ErrPermanent = errors.New("permanent")

// Backoff says how often to try, and how long to wait in between: Base at first, then twice as
// long each time, but never longer than Max.
type Backoff struct {
	Attempts  int
	Base, Max time.Duration
}

// Delay returns the wait after a failed attempt; the first attempt is number 0.
// >>> Backoff{Base: time.Second, Max: time.Minute}.Delay(3)
// 8s
// >>> Backoff{Base: time.Second, Max: time.Minute}.Delay(100)
// 1m0s
func (b Backoff) Delay(attempt int) time.Duration {
	delay := b.Base
	for range attempt {
		if delay > b.Max/2 {
			return b.Max
		}
		delay *= 2
	}
	return min(delay, b.Max)
}

// Retry calls do until it succeeds, fails for good, has failed b.Attempts times, or ctx is done.
// The error it returns wraps the last one of do.
func Retry(ctx context.Context, b Backoff, do func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := do(ctx)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrPermanent) || attempt+1 >= b.Attempts {
			return fmt.Errorf("attempt %d: %w", attempt+1, err)
		}
		timer := time.NewTimer(b.Delay(attempt))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("attempt %d: %w, then: %w", attempt+1, err, ctx.Err())
		}
	}
}
