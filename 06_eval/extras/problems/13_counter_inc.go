package problems

// Counter counts events.
type Counter struct {
	n int
}

// Value returns the number of events so far.
func (c *Counter) Value() int {
	return c.n
}

// Inc adds 1 to n.
func (c *Counter) Inc() {
	c.n++
}
