package good

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Limiter lets events happen at a steady rate, and a few at once after a pause: a bucket of
// tokens that fills slowly and from which every event takes one. Make one with NewLimiter. It is
// safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex
	every  time.Duration // the time in which a token is added
	burst  int
	tokens float64
	last   time.Time
	now    func() time.Time // a test may bring its own
}

// NewLimiter returns a full bucket of burst tokens, to which one is added in every period.
func NewLimiter(every time.Duration, burst int) (*Limiter, error) {
	if every <= 0 || burst < 1 {
		return nil, fmt.Errorf("limiter of %d every %v: both must be positive", burst, every)
	}
	return &Limiter{every: every, burst: burst, tokens: float64(burst), last: time.Now(),
		now: time.Now}, nil
}

// Allow takes a token and returns true, or returns false if there is none.
func (l *Limiter) Allow() bool {
	return l.reserve() == 0
}

// Wait takes a token, as soon as there is one. It returns the error of ctx if that is done
// earlier.
func (l *Limiter) Wait(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		delay := l.reserve()
		if delay == 0 {
			return nil
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// reserve takes a token and returns 0, or takes none and returns how long it is to the next.
func (l *Limiter) reserve() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	added := float64(now.Sub(l.last)) / float64(l.every)
	l.tokens = min(float64(l.burst), l.tokens+added)
	l.last = now
	if l.tokens < 1 {
		return max(1, time.Duration((1-l.tokens)*float64(l.every)))
	}
	l.tokens--
	return 0
}
