package problems

// Transpose returns a new table whose rows are the columns of table: the rows 1 2 3 and 4 5 6
// become 1 4, 2 5 and 3 6. The table has a row at least, and its rows are equally long.
func Transpose(table [][]string) [][]string {
	columns := make([][]string, len(table[0]))
	for _, row := range table {
		for j, cell := range row {
			columns[j] = append(columns[j], cell)
		}
	}
	return columns
}
