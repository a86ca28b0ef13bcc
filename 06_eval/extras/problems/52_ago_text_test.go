package problems

import (
	"testing"
	"time"
)

func TestAgoText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                 "just now",
		59 * time.Second:                  "just now",
		time.Minute:                       "1m ago",
		5*time.Minute + 59*time.Second:    "5m ago",
		time.Hour - time.Nanosecond:       "59m ago",
		time.Hour:                         "1h ago",
		3*time.Hour + 59*time.Minute:      "3h ago",
		24*time.Hour - time.Nanosecond:    "23h ago",
		24 * time.Hour:                    "1d ago",
		2*24*time.Hour + 23*time.Hour:     "2d ago",
		400*24*time.Hour + time.Second*30: "400d ago",
	} {
		if got := AgoText(d); got != want {
			t.Errorf("AgoText(%v) is %q, want %q", d, got, want)
		}
	}
}
