package problems

import "strings"

// ValidEmail returns true if text looks like an e-mail address: it has no space and exactly one
// "@", before it is something, and what is behind it has a dot, but not at either end.
// ValidEmail("ann@example.org") is true, and ValidEmail("ann@example.") is false.
func ValidEmail(text string) bool {
	name, domain, _ := strings.Cut(text, "@")
	if name == "" || strings.Contains(domain, "@") || strings.Contains(text, " ") {
		return false
	}
	dot := strings.Contains(domain, ".")
	return dot && !strings.HasPrefix(domain, ".") && !strings.HasSuffix(domain, ".")
}
