package good

import "iter"

// Ring is a queue, first in, first out. Its zero value is an empty one. It grows as needed, and
// what was taken out makes room for what comes.
type Ring[T any] struct {
	items []T
	start int
	count int
}

// Push adds a value at the end.
func (r *Ring[T]) Push(v T) {
	if r.count == len(r.items) {
		r.grow()
	}
	r.items[(r.start+r.count)%len(r.items)] = v
	r.count++
}

// Pop takes the first value out; ok is false if there is none.
func (r *Ring[T]) Pop() (v T, ok bool) {
	if r.count == 0 {
		return v, false
	}
	var zero T
	v, r.items[r.start] = r.items[r.start], zero // what it refers to may be freed
	r.start = (r.start + 1) % len(r.items)
	r.count--
	return v, true
}

// Len returns the number of values.
func (r *Ring[T]) Len() int {
	return r.count
}

// All yields the values from first to last and leaves them in.
func (r *Ring[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range r.count {
			if !yield(r.items[(r.start+i)%len(r.items)]) {
				return
			}
		}
	}
}

// grow makes room for twice as many values, so that n pushes copy fewer than 2n.
func (r *Ring[T]) grow() {
	items := make([]T, max(4, 2*len(r.items)))
	n := copy(items, r.items[r.start:])
	copy(items[n:], r.items[:r.start])
	r.items, r.start = items, 0
}
