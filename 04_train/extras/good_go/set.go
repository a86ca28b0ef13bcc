package good

import (
	"iter"
	"maps"
)

// Set is a collection without order in which nothing is twice. A nil Set can be read.
type Set[T comparable] map[T]struct{}

// SetOf returns a set of the given values.
// >>> SetOf("b", "a", "b").Len()
// 2
func SetOf[T comparable](values ...T) Set[T] {
	s := make(Set[T], len(values))
	for _, v := range values {
		s.Add(v)
	}
	return s
}

// Add puts a value into the set, unless it is there.
func (s Set[T]) Add(v T) {
	s[v] = struct{}{}
}

// Has reports whether a value is in the set.
func (s Set[T]) Has(v T) bool {
	_, ok := s[v]
	return ok
}

// Len returns the number of values.
func (s Set[T]) Len() int {
	return len(s)
}

// All yields the values, in no particular order.
func (s Set[T]) All() iter.Seq[T] {
	return maps.Keys(s)
}

// Union returns a new set of what is in s, in other, or in both.
func (s Set[T]) Union(other Set[T]) Set[T] {
	union := make(Set[T], max(len(s), len(other)))
	maps.Copy(union, s)
	maps.Copy(union, other)
	return union
}

// Minus returns a new set of what is in s but not in other.
// >>> SetOf(1, 2, 3).Minus(SetOf(2))
// map[1:{} 3:{}]
func (s Set[T]) Minus(other Set[T]) Set[T] {
	rest := make(Set[T])
	for v := range s {
		if !other.Has(v) {
			rest.Add(v)
		}
	}
	return rest
}

// Within reports whether everything in s is in other, too.
// >>> SetOf(2, 3).Within(SetOf(1, 2, 3))
// true
func (s Set[T]) Within(other Set[T]) bool {
	return len(s.Minus(other)) == 0
}
