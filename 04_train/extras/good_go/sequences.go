package good

import "iter"

// Count yields start, start+1, start+2 and so on, without end.
func Count(start int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := start; yield(i); i++ {
		}
	}
}

// Take yields the first n values of seq, or all if there are fewer.
// >>> slices.Collect(Take(Count(5), 3))
// [5 6 7]
func Take[T any](seq iter.Seq[T], n int) iter.Seq[T] {
	return func(yield func(T) bool) {
		if n <= 0 {
			return
		}
		left := n
		for v := range seq {
			if left--; !yield(v) || left == 0 {
				return
			}
		}
	}
}

// Where yields the values of seq for which keep is true.
// >>> slices.Collect(Take(Where(Count(1), func(i int) bool { return i%7 == 3 }), 3))
// [3 10 17]
func Where[T any](seq iter.Seq[T], keep func(T) bool) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range seq {
			if keep(v) && !yield(v) {
				return
			}
		}
	}
}

// Apply yields f(v) for every v of seq, and calls f no earlier than that value is asked for.
// >>> slices.Collect(Apply(slices.Values([]string{"go", "gopher"}), strings.ToUpper))
// [GO GOPHER]
func Apply[T, U any](seq iter.Seq[T], f func(T) U) iter.Seq[U] {
	return func(yield func(U) bool) {
		for v := range seq {
			if !yield(f(v)) {
				return
			}
		}
	}
}

// Zip yields pairs of values, one of a and one of b, until one of them has no more.
func Zip[A, B any](a iter.Seq[A], b iter.Seq[B]) iter.Seq2[A, B] {
	return func(yield func(A, B) bool) {
		next, stop := iter.Pull(b)
		defer stop()
		for x := range a {
			y, ok := next()
			if !ok || !yield(x, y) {
				return
			}
		}
	}
}
