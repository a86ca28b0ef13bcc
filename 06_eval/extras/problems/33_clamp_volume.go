package problems

// ClampVolume returns volume if it is from low to high, low if it is less, high if it is more.
// ClampVolume(12, 0, 10) is 10.
func ClampVolume(volume, low, high int) int {
	if volume < low {
		return low
	}
	if volume > high {
		return high
	}
	return volume
}
