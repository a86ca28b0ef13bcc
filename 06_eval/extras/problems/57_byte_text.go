package problems

import "fmt"

// ByteText returns a number of bytes as people read it: below 1024 as "512 B", otherwise divided by
// 1024 as often as that leaves 1 or more, at most four times, with one decimal and the unit KB, MB,
// GB or TB. ByteText(1536) is "1.5 KB".
func ByteText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1024, 0
	for size >= 1024 && unit < 3 {
		size /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %cB", size, "KMGT"[unit])
}
