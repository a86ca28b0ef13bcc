package problems

import "testing"

func TestPlatesPeek(t *testing.T) {
	p := &Plates{}
	if got, err := p.Peek(); got != "" || err != ErrNoPlate {
		t.Errorf("of no plates Peek is %q, %v", got, err)
	}
	for i, want := range []string{"red", "blue", "green"} {
		p.items = append(p.items, want)
		if got, err := p.Peek(); got != want || err != nil {
			t.Errorf("Peek is %q, %v, want %q", got, err, want)
		}
		if len(p.items) != i+1 {
			t.Errorf("Peek has left %v", p.items)
		}
	}
}
