package problems

// SyntaxError is an error in a line of a file.
type SyntaxError struct {
	line int
	msg  string
}

// Line returns the line of the error.
func (e *SyntaxError) Line() int {
	return e.line
}

// Error returns the message of the error, without its line.
func (e *SyntaxError) Error() string {
	return e.msg
}
