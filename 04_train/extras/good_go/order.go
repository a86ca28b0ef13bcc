package good

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrCycle is what Order wraps when things need each other in a circle.
var ErrCycle = errors.New("cycle")

// Order returns everything in an order in which each stands behind what it needs. The same needs
// always give the same order.
// >>> Order(map[string][]string{"shoes": {"socks"}, "coat": {"shirt"}})
// [shirt coat socks shoes] <nil>
// >>> Order(map[string][]string{"hen": {"egg"}, "egg": {"hen"}})
// [] cycle through "egg"
func Order(needs map[string][]string) ([]string, error) {
	s := sorter{needs: needs, state: make(map[string]progress)}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		if err := s.visit(name); err != nil {
			return nil, err
		}
	}
	return s.order, nil
}

type progress int

const (
	untouched progress = iota
	begun
	finished
)

type sorter struct {
	needs map[string][]string
	state map[string]progress
	order []string
}

// visit puts what name needs into the order, and then name itself.
func (s *sorter) visit(name string) error {
	switch s.state[name] {
	case finished:
		return nil
	case begun:
		return fmt.Errorf("%w through %q", ErrCycle, name)
	}
	s.state[name] = begun
	for _, needed := range slices.Sorted(slices.Values(s.needs[name])) {
		if err := s.visit(needed); err != nil {
			return err
		}
	}
	s.state[name] = finished
	s.order = append(s.order, name)
	return nil
}
