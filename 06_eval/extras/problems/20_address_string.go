package problems

import "fmt"

// Address is a host and a port.
type Address struct {
	Host string
	Port int
}

// String returns the host and the port with a colon between them.
// Address{"localhost", 80}.String() is "localhost:80".
func (a Address) String() string {
	return fmt.Sprintf("%s:%d", a.Host, a.Port)
}
