package problems

import "testing"

func TestCounterInc(t *testing.T) {
	for _, start := range []int{0, 5, -3} {
		c := &Counter{n: start}
		for i := 1; i <= 3; i++ {
			c.Inc()
			if got := c.Value(); got != start+i {
				t.Errorf("from %d, after %d times the value is %d", start, i, got)
			}
		}
	}
}
