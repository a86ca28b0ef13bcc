package problems

// User is somebody with a first and a last name.
type User struct {
	First string
	Last  string
}

// FullName returns the first name, a space, and the last name.
func (u User) FullName() string {
	return u.First + " " + u.Last
}
