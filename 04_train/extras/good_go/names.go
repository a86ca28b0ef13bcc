package good

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// SnakeCase turns a name like those in Go into one like those in databases. Capitals in a row
// are one word, but for the last of them if a small letter follows.
// >>> SnakeCase("ParseHTTPRequest")
// parse_http_request
// >>> SnakeCase("userID")
// user_id
func SnakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) {
			afterSmall := !unicode.IsUpper(runes[i-1])
			beforeSmall := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if runes[i-1] != '_' && (afterSmall || beforeSmall) {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// Acronym returns the first letter of each word, as a capital.
// >>> Acronym("as far as possible")
// AFAP
func Acronym(phrase string) string {
	var b strings.Builder
	for _, word := range strings.Fields(phrase) {
		first, _ := utf8.DecodeRuneInString(word)
		b.WriteRune(unicode.ToUpper(first))
	}
	return b.String()
}

// Slug turns a title into what can stand in an address: small letters, digits, and a hyphen for
// each run of anything else between them.
// >>> Slug("  Go 1.23: Iterators & more!")
// go-1-23-iterators-more
func Slug(title string) string {
	words := strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	return strings.Join(words, "-")
}
