package problems

// Set is a set of names.
type Set map[string]struct{}

// Add puts a name into the set.
func (s Set) Add(name string) {
	s[name] = struct{}{}
}

// Has returns true if the name is in the set.
func (s Set) Has(name string) bool {
	_, ok := s[name]
	return ok
}
