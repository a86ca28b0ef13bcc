package problems

import "sort"

// SortedNames returns the keys of ages in alphabetical order.
func SortedNames(ages map[string]int) []string {
	var names []string
	for name := range ages {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
