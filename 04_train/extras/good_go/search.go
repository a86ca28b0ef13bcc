package good

import (
	"cmp"
	"math/bits"
	"sort"
)

// LowerBound returns the first index of an ascending slice at which x could be inserted: how
// many values are less than x.
// >>> LowerBound([]int{2, 3, 3, 7}, 3)
// 1
// >>> LowerBound([]int{2, 3, 3, 7}, 8)
// 4
func LowerBound[T cmp.Ordered](sorted []T, x T) int {
	low, high := 0, len(sorted)
	for low < high { // all before low are less than x, none from high on is
		middle := int(uint(low+high) / 2) // unsigned, for the sum may overflow
		if sorted[middle] < x {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// Occurrences returns how often x is in an ascending slice, in logarithmic time.
// >>> Occurrences([]int{2, 3, 3, 7}, 3)
// 2
func Occurrences[T cmp.Ordered](sorted []T, x T) int {
	rest := sorted[LowerBound(sorted, x):]
	return sort.Search(len(rest), func(i int) bool { return rest[i] > x })
}

// Sqrt returns the largest number whose square is at most n.
// >>> Sqrt(80)
// 8
func Sqrt(n uint64) uint64 {
	var root uint64
	for bit := uint64(1) << (bits.Len64(n) / 2); bit > 0; bit >>= 1 {
		if next := root | bit; next <= n/next {
			root = next
		}
	}
	return root
}
