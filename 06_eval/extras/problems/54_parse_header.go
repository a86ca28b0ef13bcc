package problems

import "strings"

// ParseHeader returns the values by their keys of lines "key: value", without spaces around either;
// keys are in small letters. Lines without a colon, and those that begin with "#", are passed over.
func ParseHeader(text string) map[string]string {
	header := make(map[string]string)
	for _, line := range strings.Split(text, "\n") {
		key, value, found := strings.Cut(line, ":")
		if !found || strings.HasPrefix(line, "#") {
			continue
		}
		header[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
	}
	return header
}
