package problems

import "testing"

func TestFormatStock(t *testing.T) {
	stocks := []Stock{{"tea", 12}, {"milk", 3}, {"marmalade", 140}, {"", 0}}
	for n, want := range []string{
		"",
		"tea  12\n",
		"tea   12\nmilk  3\n",
		"tea        12\nmilk       3\nmarmalade  140\n",
		"tea        12\nmilk       3\nmarmalade  140\n           0\n",
	} {
		if got := FormatStock(stocks[:n]); got != want {
			t.Errorf("of %v it is %q, want %q", stocks[:n], got, want)
		}
	}
	if got := FormatStock(stocks[3:]); got != "  0\n" {
		t.Errorf("of a stock without a name it is %q", got)
	}
}
