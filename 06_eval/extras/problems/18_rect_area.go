package problems

// Rect is a rectangle.
type Rect struct {
	Width  float64
	Height float64
}

// Perimeter returns the length of the four sides of the rectangle.
func (r Rect) Perimeter() float64 {
	return 2 * (r.Width + r.Height)
}

// Area returns the area of the rectangle, its width times its height.
func (r Rect) Area() float64 {
	return r.Width * r.Height
}
