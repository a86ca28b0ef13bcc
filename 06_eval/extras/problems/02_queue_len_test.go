package problems

import "testing"

func TestQueueLen(t *testing.T) {
	q := &Queue{}
	for want := 0; want < 4; want++ {
		if got := q.Len(); got != want {
			t.Errorf("after %d names the length is %d", want, got)
		}
		q.Push("x")
	}
}
