package problems

import "strings"

// JoinParts joins the parts of a path with one slash between them. Slashes at the ends of a part
// are dropped, and so are empty parts. JoinParts("a/", "", "/b/c") is "a/b/c".
func JoinParts(parts ...string) string {
	var kept []string
	for _, part := range parts {
		part = strings.Trim(part, "/")
		if part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "/")
}
