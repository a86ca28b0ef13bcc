package problems

// Overlay returns a new map with all of base and all of changes; for a key that is in both, the
// value of changes counts. Neither base nor changes is altered.
func Overlay(base, changes map[string]int) map[string]int {
	merged := make(map[string]int)
	for key, value := range base {
		merged[key] = value
	}
	for key, value := range changes {
		merged[key] = value
	}
	return merged
}
