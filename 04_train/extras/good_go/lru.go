package good

import "container/list"

// Cache holds a limited number of entries. When it is full, a new entry takes the place of the
// one that has not been used for longest. It is not safe for concurrent use.
type Cache[K comparable, V any] struct {
	capacity int
	order    *list.List // of *cacheEntry[K, V], the last used in front
	places   map[K]*list.Element
}

type cacheEntry[K comparable, V any] struct {
	key   K
	value V
}

// NewCache returns an empty cache for at most capacity entries. It panics if capacity is below
// 1, which is a mistake in the program.
func NewCache[K comparable, V any](capacity int) *Cache[K, V] {
	if capacity < 1 {
		panic("good: a cache needs room for one entry at least")
	}
	return &Cache[K, V]{capacity, list.New(), make(map[K]*list.Element)}
}

// Get returns the value of key and marks it as used; ok is false if there is none.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	place, ok := c.places[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(place)
	return place.Value.(*cacheEntry[K, V]).value, true
}

// Put sets the value of key, and forgets the least recently used key if there is no room.
func (c *Cache[K, V]) Put(key K, value V) {
	if place, ok := c.places[key]; ok {
		place.Value.(*cacheEntry[K, V]).value = value
		c.order.MoveToFront(place)
		return
	}
	if len(c.places) == c.capacity {
		oldest := c.order.Remove(c.order.Back()).(*cacheEntry[K, V])
		delete(c.places, oldest.key)
	}
	c.places[key] = c.order.PushFront(&cacheEntry[K, V]{key, value})
}

// Len returns the number of entries.
func (c *Cache[K, V]) Len() int {
	return len(c.places)
}
