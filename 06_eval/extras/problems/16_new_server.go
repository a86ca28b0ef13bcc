package problems

// Server is a server at an address.
type Server struct {
	host string
	port int
}

// NewServer returns a new server with the given host and port.
func NewServer(host string, port int) *Server {
	return &Server{host: host, port: port}
}
