package problems

// Stack is a stack of numbers.
type Stack struct {
	items []int
}

// Len returns how many numbers are on the stack.
func (s *Stack) Len() int {
	return len(s.items)
}

// IsEmpty returns true if there are no numbers on the stack.
func (s *Stack) IsEmpty() bool {
	return len(s.items) == 0
}
