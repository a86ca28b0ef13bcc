package problems

import "strings"

// FillTemplate replaces each ${name} in text by the value of name, or by nothing if it has none.
// What is filled in is not looked at again, and a "${" that is never closed is kept as it is.
// FillTemplate("Hi ${who}!", values) is "Hi Ann!" if the value of who is "Ann".
func FillTemplate(text string, values map[string]string) string {
	filled := ""
	for {
		before, rest, found := strings.Cut(text, "${")
		name, after, closed := strings.Cut(rest, "}")
		if !found || !closed {
			return filled + text
		}
		filled += before + values[name]
		text = after
	}
}
