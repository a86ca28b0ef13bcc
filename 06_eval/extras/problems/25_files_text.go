package problems

import "fmt"

// FilesText says how many files there are: FilesText(1) is "1 file", FilesText(3) is "3 files".
func FilesText(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}
