package problems

import "testing"

func TestOptionsGet(t *testing.T) {
	o := &Options{values: map[string]string{"color": "red", "size": "big"}}
	for key, want := range map[string]string{"color": "red", "size": "big", "depth": "", "": ""} {
		if got := o.Get(key); got != want {
			t.Errorf("Get(%q) is %q, want %q", key, got, want)
		}
	}
	if len(o.values) != 2 {
		t.Errorf("Get has changed the values: %v", o.values)
	}
}
