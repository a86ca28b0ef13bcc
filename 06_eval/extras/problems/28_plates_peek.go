package problems

import "errors"

// ErrNoPlate is returned if there is no plate.
var ErrNoPlate = errors.New("no plate")

// Plates is a stack of plates, the top one last.
type Plates struct {
	items []string
}

// Peek returns the last item and leaves it there. If there are no items, it returns "" and
// ErrNoPlate.
func (p *Plates) Peek() (string, error) {
	if len(p.items) == 0 {
		return "", ErrNoPlate
	}
	return p.items[len(p.items)-1], nil
}
