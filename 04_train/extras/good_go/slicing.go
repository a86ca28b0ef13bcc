package good

import (
	"cmp"
	"slices"
)

// Number is any type that can be added and divided.
type Number interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~float32 | ~float64
}

// Clamp returns the value from low to high that is nearest to x.
// >>> Clamp(12, 0, 10)
// 10
// >>> Clamp("m", "a", "k")
// k
func Clamp[T cmp.Ordered](x, low, high T) T {
	return max(low, min(x, high))
}

// GroupBy sorts values into groups, by what key says of each. Their order in a group is kept.
// >>> GroupBy([]string{"ant", "bear", "ape"}, func(s string) int { return len(s) })
// map[3:[ant ape] 4:[bear]]
func GroupBy[K comparable, T any](values []T, key func(T) K) map[K][]T {
	groups := make(map[K][]T)
	for _, v := range values {
		k := key(v)
		groups[k] = append(groups[k], v)
	}
	return groups
}

// Partition returns the values for which first is true, and the others.
// >>> Partition([]int{5, 12, 7, 30}, func(n int) bool { return n < 10 })
// [5 7] [12 30]
func Partition[T any](values []T, first func(T) bool) (yes, no []T) {
	for _, v := range values {
		if first(v) {
			yes = append(yes, v)
		} else {
			no = append(no, v)
		}
	}
	return yes, no
}

// MovingAverage returns the mean of each n values in a row: len(values)-n+1 of them.
// >>> MovingAverage([]int{1, 3, 5, 9}, 2)
// [2 4 7]
func MovingAverage[T Number](values []T, n int) []float64 {
	if n < 1 || n > len(values) {
		return nil
	}
	means := make([]float64, 0, len(values)-n+1)
	var sum float64
	for i, v := range values {
		sum += float64(v)
		if i >= n-1 {
			means = append(means, sum/float64(n))
			sum -= float64(values[i-n+1])
		}
	}
	return means
}

// Rotated returns a copy of values in which those from index k on come first. It
// panics, as slicing does, unless k is from 0 to len(values).
// >>> Rotated([]string{"mon", "tue", "wed", "thu"}, 1)
// [tue wed thu mon]
func Rotated[T any](values []T, k int) []T {
	return slices.Concat(values[k:], values[:k])
}
