package good

// EditDistance returns how many characters must be inserted, deleted or replaced to make b of a.
// Characters are runes, not bytes. It takes time len(a) * len(b), and memory for one row.
// >>> EditDistance("kitten", "sitting")
// 3
// >>> EditDistance("größe", "große")
// 1
func EditDistance(a, b string) int {
	s, t := []rune(a), []rune(b)
	row := make([]int, len(t)+1) // row[j]: from the part of s so far to t[:j]
	for j := range row {
		row[j] = j
	}
	for i, x := range s {
		diagonal := row[0] // the value of row[j] before row[j] was overwritten
		row[0] = i + 1
		for j, y := range t {
			replaced := diagonal
			if x != y {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(t)]
}

// Nearest returns the candidate with the least edit distance to word, the first of several. It
// returns "" if nothing is within limit.
// >>> Nearest("comit", []string{"clone", "commit", "config"}, 2)
// commit
func Nearest(word string, candidates []string, limit int) string {
	nearest, best := "", limit+1
	for _, c := range candidates {
		if d := EditDistance(word, c); d < best {
			nearest, best = c, d
		}
	}
	return nearest
}

// CommonPrefix returns what all words begin with.
// >>> CommonPrefix([]string{"interval", "interface", "internal"})
// inter
func CommonPrefix(words []string) string {
	if len(words) == 0 {
		return ""
	}
	prefix := []rune(words[0])
	for _, word := range words[1:] {
		n := 0
		for _, r := range word {
			if n == len(prefix) || prefix[n] != r {
				break
			}
			n++
		}
		prefix = prefix[:n]
	}
	return string(prefix)
}
