package problems

// MinInt returns the smaller of a and b.
func MinInt(a, b int) int {
	return min(a, b)
}

// MaxInt returns the larger of a and b.
func MaxInt(a, b int) int {
	return max(a, b)
}
