package problems

import "testing"

func TestPageSetTitle(t *testing.T) {
	p := &Page{author: "ann", title: "old"}
	for _, title := range []string{"new", "newer", ""} {
		p.SetTitle(title)
		if p.title != title || p.author != "ann" {
			t.Errorf("after SetTitle(%q): %+v", title, *p)
		}
	}
}
