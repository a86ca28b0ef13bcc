package problems

// Handler answers requests.
type Handler interface {
	Handle(request string) string
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(request string) string

// Handle calls f with the request and returns its answer.
func (f HandlerFunc) Handle(request string) string {
	return f(request)
}
