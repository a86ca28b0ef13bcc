package problems

// Chunks cuts lines into parts of n lines each, in their order; the last part may be shorter, but
// no part is empty. n is at least 1. Chunks of a b c d e for n = 2 are [a b] [c d] [e].
func Chunks(lines []string, n int) [][]string {
	var chunks [][]string
	for len(lines) > n {
		chunks = append(chunks, lines[:n])
		lines = lines[n:]
	}
	if len(lines) > 0 {
		chunks = append(chunks, lines)
	}
	return chunks
}
