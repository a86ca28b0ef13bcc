package problems

// Retry calls f until it returns nil, but at most n times, and returns what the last call of f
// returned. n is at least 1.
func Retry(n int, f func() error) error {
	var err error
	for i := 0; i < n; i++ {
		err = f()
		if err == nil {
			break
		}
	}
	return err
}
