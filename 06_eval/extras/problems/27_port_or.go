package problems

import "strconv"

// PortOr returns the number that is written in text, or fallback if text is not a number.
// PortOr("80", 1) is 80, and PortOr("x", 1) is 1.
func PortOr(text string, fallback int) int {
	port, err := strconv.Atoi(text)
	if err != nil {
		return fallback
	}
	return port
}
