package problems

// Recent remembers the latest numbers: as many as values has room for.
type Recent struct {
	values []int
	next   int  // the index in values that the next number gets
	full   bool // whether all of values is in use
}

// Add puts a number at the index next, which then moves on by one. At the end of values, next goes
// back to 0 and full becomes true.
func (r *Recent) Add(number int) {
	r.values[r.next] = number
	r.next++
	if r.next == len(r.values) {
		r.next = 0
		r.full = true
	}
}
