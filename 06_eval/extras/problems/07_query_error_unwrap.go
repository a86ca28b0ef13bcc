package problems

// QueryError is the error of a query.
type QueryError struct {
	query string
	err   error
}

// Error returns the query and the message of its error.
func (e *QueryError) Error() string {
	return e.query + ": " + e.err.Error()
}

// Unwrap returns the error of the query.
func (e *QueryError) Unwrap() error {
	return e.err
}
