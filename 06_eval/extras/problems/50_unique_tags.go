package problems

// UniqueTags returns the tags without those that came before, in their order.
// UniqueTags of b a b c a is b a c.
func UniqueTags(tags []string) []string {
	seen := make(map[string]bool)
	var unique []string
	for _, tag := range tags {
		if !seen[tag] {
			seen[tag] = true
			unique = append(unique, tag)
		}
	}
	return unique
}
