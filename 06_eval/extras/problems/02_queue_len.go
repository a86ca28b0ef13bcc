package problems

// Queue is a queue of names.
type Queue struct {
	items []string
}

// Push adds a name to the queue.
func (q *Queue) Push(name string) {
	q.items = append(q.items, name)
}

// Len returns how many names are in the queue.
func (q *Queue) Len() int {
	return len(q.items)
}
