package problems

// Person is somebody with a name and an age.
type Person struct {
	Name string
	Age  int
}

// ByAge sorts persons by their age, the youngest first.
type ByAge []Person

// Len returns the number of persons.
func (a ByAge) Len() int {
	return len(a)
}

// Swap swaps the persons i and j.
func (a ByAge) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
}

// Less returns true if person i is younger than person j.
func (a ByAge) Less(i, j int) bool {
	return a[i].Age < a[j].Age
}
