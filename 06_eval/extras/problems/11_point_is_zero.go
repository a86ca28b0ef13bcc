package problems

// Point is a point in the plane.
type Point struct {
	X int
	Y int
}

// IsZero returns true if X and Y are both 0.
func (p Point) IsZero() bool {
	return p.X == 0 && p.Y == 0
}
