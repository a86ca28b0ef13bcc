package problems

// Shorten returns text if it has at most n characters, otherwise its first n characters and "...".
// Shorten("hello", 3) is "hel...".
func Shorten(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n {
		return text
	}
	return string(runes[:n]) + "..."
}
