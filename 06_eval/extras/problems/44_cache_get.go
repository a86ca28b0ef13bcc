package problems

import "container/list"

// Cache keeps texts by name and remembers which was used last.
type Cache struct {
	recent  *list.List // of *Entry, the one that was used last in front
	entries map[string]*list.Element
}

// Entry is a text in a cache, and its name.
type Entry struct {
	Name string
	Text string
}

// Get returns the text of the name and true, and moves its entry to the front of recent. It
// returns "" and false if there is no such name.
func (c *Cache) Get(name string) (string, bool) {
	element, ok := c.entries[name]
	if !ok {
		return "", false
	}
	c.recent.MoveToFront(element)
	return element.Value.(*Entry).Text, true
}
