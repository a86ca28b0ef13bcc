package problems

import (
	"fmt"
	"testing"
)

func TestRetry(t *testing.T) {
	for _, c := range []struct{ n, fails, calls int }{
		{1, 0, 1}, {1, 5, 1}, {3, 0, 1}, {3, 1, 2}, {3, 2, 3}, {3, 3, 3}, {4, 9, 4}} {
		calls := 0
		err := Retry(c.n, func() error {
			calls++
			if calls <= c.fails {
				return fmt.Errorf("call %d", calls)
			}
			return nil
		})
		if calls != c.calls {
			t.Errorf("f, which fails %d times, was called %d times of %d", c.fails, calls, c.n)
		}
		want := "<nil>"
		if c.fails >= c.n {
			want = fmt.Sprintf("call %d", c.n)
		}
		if got := fmt.Sprint(err); got != want {
			t.Errorf("f fails %d times: Retry(%d, f) is %s, want %s", c.fails, c.n, got, want)
		}
	}
}
