package problems

import (
	"fmt"
	"strings"
)

// ParsePair cuts text at its first "=" into a key and a value, without the spaces around them.
// ParsePair(" name = Ann ") is "name", "Ann", nil. It returns "", "" and an error if there is no
// "=" or if the key is empty.
func ParsePair(text string) (string, string, error) {
	key, value, found := strings.Cut(text, "=")
	key = strings.TrimSpace(key)
	if !found || key == "" {
		return "", "", fmt.Errorf("%q is not of the form key=value", text)
	}
	return key, strings.TrimSpace(value), nil
}
