package problems

// Level says how important a message is.
type Level string

// The levels that there are.
const (
	LevelInfo  Level = "info"
	LevelError Level = "error"
)

// String returns the level as a string.
func (l Level) String() string {
	return string(l)
}
