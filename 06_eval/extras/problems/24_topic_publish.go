package problems

// Topic has functions that want to know its messages.
type Topic struct {
	listeners []func(message string)
}

// Subscribe adds a listener.
func (t *Topic) Subscribe(listener func(message string)) {
	t.listeners = append(t.listeners, listener)
}

// Publish calls every listener with the message, in the order in which they were added.
func (t *Topic) Publish(message string) {
	for _, listener := range t.listeners {
		listener(message)
	}
}
