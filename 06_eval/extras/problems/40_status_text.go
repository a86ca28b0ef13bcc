package problems

// StatusText returns what an HTTP status means: 200 is "OK", 404 is "Not Found", 500 is
// "Internal Server Error", and all others are "Unknown".
func StatusText(code int) string {
	switch code {
	case 200:
		return "OK"
	case 404:
		return "Not Found"
	case 500:
		return "Internal Server Error"
	}
	return "Unknown"
}
