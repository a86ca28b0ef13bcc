package problems

// Options are values with a name each.
type Options struct {
	values map[string]string
}

// Set sets the value of key.
func (o *Options) Set(key, value string) {
	o.values[key] = value
}

// Get returns the value of key, or "" if it has none.
func (o *Options) Get(key string) string {
	return o.values[key]
}
