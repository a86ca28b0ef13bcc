package problems

import (
	"container/list"
	"testing"
)

func TestCacheGet(t *testing.T) {
	c := &Cache{recent: list.New(), entries: map[string]*list.Element{}}
	for _, e := range []*Entry{{"a", "apple"}, {"b", "pear"}, {"c", ""}} {
		c.entries[e.Name] = c.recent.PushBack(e)
	}
	for _, step := range []struct {
		name, text string
		ok         bool
		order      string
	}{
		{"b", "pear", true, "bac"}, {"c", "", true, "cba"}, {"x", "", false, "cba"},
		{"c", "", true, "cba"}, {"a", "apple", true, "acb"}, {"", "", false, "acb"},
	} {
		text, ok := c.Get(step.name)
		if text != step.text || ok != step.ok {
			t.Errorf("Get(%q) is %q, %v", step.name, text, ok)
		}
		order := ""
		for e := c.recent.Front(); e != nil; e = e.Next() {
			order += e.Value.(*Entry).Name
		}
		if order != step.order || len(c.entries) != 3 {
			t.Errorf("after Get(%q) the order is %q, want %q", step.name, order, step.order)
		}
	}
}
