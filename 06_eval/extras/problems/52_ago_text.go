package problems

import (
	"fmt"
	"time"
)

// AgoText says how long ago something was: "just now" below one minute, "5m ago" below one hour,
// "3h ago" below one day, and "2d ago" from then on. What is left over is dropped.
func AgoText(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}
