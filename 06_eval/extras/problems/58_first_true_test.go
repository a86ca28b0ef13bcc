package problems

import "testing"

func TestFirstTrue(t *testing.T) {
	for n := 0; n < 9; n++ {
		for want := 0; want <= n; want++ {
			got := FirstTrue(n, func(index int) bool {
				if index < 0 || index >= n {
					t.Fatalf("ok(%d) is called for n = %d", index, n)
				}
				return index >= want
			})
			if got != want {
				t.Errorf("FirstTrue(%d, true from %d on) is %d", n, want, got)
			}
		}
	}
	for want := 0; want <= 1000; want++ {
		calls := 0
		got := FirstTrue(1000, func(index int) bool { calls++; return index >= want })
		if got != want || calls > 10 {
			t.Fatalf("true from %d on: the answer is %d, after %d calls", want, got, calls)
		}
	}
}
