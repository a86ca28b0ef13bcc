package problems

// OrDefault returns value, or fallback if value is empty.
// OrDefault("", "main") is "main".
func OrDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
