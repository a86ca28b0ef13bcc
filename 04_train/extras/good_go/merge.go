package good

import (
	"cmp"
	"iter"
)

// MergeSorted returns all values of two ascending slices in ascending order. Of equal values
// those of a come first.
// >>> MergeSorted([]int{1, 4, 9}, []int{2, 4, 6, 12})
// [1 2 4 4 6 9 12]
func MergeSorted[T cmp.Ordered](a, b []T) []T {
	merged := make([]T, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if b[0] < a[0] {
			merged, b = append(merged, b[0]), b[1:]
		} else {
			merged, a = append(merged, a[0]), a[1:]
		}
	}
	merged = append(merged, a...)
	return append(merged, b...)
}

// MergeSort returns a copy of values in ascending order. Halves are sorted, then merged: n log n
// comparisons at most, whatever the input.
// >>> MergeSort([]string{"pine", "ash", "oak", "elm"})
// [ash elm oak pine]
func MergeSort[T cmp.Ordered](values []T) []T {
	if len(values) < 2 {
		return append([]T{}, values...)
	}
	middle := len(values) / 2
	return MergeSorted(MergeSort(values[:middle]), MergeSort(values[middle:]))
}

// Runs yields the longest pieces of values in each of which no value is less than the one before.
// >>> slices.Collect(Runs([]int{3, 5, 5, 2, 8, 1}))
// [[3 5 5] [2 8] [1]]
func Runs[T cmp.Ordered](values []T) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		start := 0
		for i := range values {
			if i+1 < len(values) && values[i] <= values[i+1] {
				continue
			}
			if !yield(values[start : i+1]) {
				return
			}
			start = i + 1
		}
	}
}
