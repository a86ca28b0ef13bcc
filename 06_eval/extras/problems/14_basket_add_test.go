package problems

import (
	"strings"
	"testing"
)

func TestBasketAdd(t *testing.T) {
	b := &Basket{}
	for _, want := range []string{"tea", "tea milk", "tea milk tea"} {
		b.Add(want[strings.LastIndex(want, " ")+1:])
		if got := strings.Join(b.items, " "); got != want {
			t.Errorf("the basket has %q, want %q", got, want)
		}
	}
}
