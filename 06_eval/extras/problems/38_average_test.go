package problems

import (
	"math"
	"testing"
)

func TestAverage(t *testing.T) {
	for _, c := range []struct {
		numbers []float64
		want    float64
	}{{nil, 0}, {[]float64{}, 0}, {[]float64{7}, 7}, {[]float64{1, 2}, 1.5}, {[]float64{1, 2, 6}, 3},
		{[]float64{-4, 4}, 0}, {[]float64{0.1, 0.2, 0.3, 0.4}, 0.25}} {
		if got := Average(c.numbers); !(math.Abs(got-c.want) <= 1e-9) {
			t.Errorf("the average of %v is %v, want %v", c.numbers, got, c.want)
		}
	}
}
