package problems

// FirstTrue returns the smallest index from 0 to n-1 for which ok is true, or n if there is none.
// ok is false for all indexes before it and true for all behind it, so half of them are ruled out
// by each call of ok: for n = 1000 there are at most ten calls.
func FirstTrue(n int, ok func(index int) bool) int {
	left, right := 0, n
	for left < right {
		mid := (left + right) / 2
		if ok(mid) {
			right = mid
		} else {
			left = mid + 1
		}
	}
	return left
}
