package good

import (
	"cmp"
	"iter"
)

// Tree is a map that keeps its keys in order: a binary search tree. Its zero value is empty. It
// does not balance itself; keys that come in order make it as slow as a list.
type Tree[K cmp.Ordered, V any] struct {
	root *branch[K, V]
	size int
}

type branch[K cmp.Ordered, V any] struct {
	key         K
	value       V
	left, right *branch[K, V]
}

// find returns the place where key is, or where it would be put.
func (t *Tree[K, V]) find(key K) **branch[K, V] {
	place := &t.root
	for *place != nil && (*place).key != key {
		if key < (*place).key {
			place = &(*place).left
		} else {
			place = &(*place).right
		}
	}
	return place
}

// Set gives key a value, a new one if it has one.
func (t *Tree[K, V]) Set(key K, value V) {
	place := t.find(key)
	if *place == nil {
		*place = &branch[K, V]{key: key}
		t.size++
	}
	(*place).value = value
}

// Get returns the value of key; ok is false if it has none.
func (t *Tree[K, V]) Get(key K) (value V, ok bool) {
	if b := *t.find(key); b != nil {
		return b.value, true
	}
	return value, false
}

// Len returns the number of keys.
func (t *Tree[K, V]) Len() int {
	return t.size
}

// All yields keys and values, in ascending order of the keys.
func (t *Tree[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.root.walk(yield)
	}
}

// walk reports whether to go on.
func (b *branch[K, V]) walk(yield func(K, V) bool) bool {
	return b == nil || b.left.walk(yield) && yield(b.key, b.value) && b.right.walk(yield)
}
