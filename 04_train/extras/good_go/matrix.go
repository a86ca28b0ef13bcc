package good

import (
	"fmt"
	"strings"
)

// Matrix is a table of numbers, all of whose rows have the same length.
type Matrix [][]float64

// NewMatrix returns a matrix of zeros. Its rows lie next to each other in memory.
func NewMatrix(rows, columns int) Matrix {
	cells := make([]float64, rows*columns)
	m := make(Matrix, rows)
	for i := range m {
		m[i], cells = cells[:columns:columns], cells[columns:]
	}
	return m
}

// Size returns the number of rows and of columns.
func (m Matrix) Size() (rows, columns int) {
	if len(m) == 0 {
		return 0, 0
	}
	return len(m), len(m[0])
}

// Transpose returns the matrix with its rows as columns.
// >>> Matrix{{1, 2, 3}, {4, 5, 6}}.Transpose()
// [1 4; 2 5; 3 6]
func (m Matrix) Transpose() Matrix {
	rows, columns := m.Size()
	t := NewMatrix(columns, rows)
	for i, row := range m {
		for j, x := range row {
			t[j][i] = x
		}
	}
	return t
}

// Times returns the product of two matrices, or an error if their sizes do not fit.
// >>> Matrix{{1, 2}, {3, 4}}.Times(Matrix{{5, 6}, {7, 8}})
// [19 22; 43 50] <nil>
func (m Matrix) Times(n Matrix) (Matrix, error) {
	rows, inner := m.Size()
	height, columns := n.Size()
	if inner != height {
		return nil, fmt.Errorf("%dx%d times %dx%d: sizes do not fit", rows, inner, height, columns)
	}
	product := NewMatrix(rows, columns)
	for i, row := range m {
		for k, x := range row { // k before j: both matrices are read along their rows
			for j, y := range n[k] {
				product[i][j] += x * y
			}
		}
	}
	return product, nil
}

// String returns the matrix in one line.
func (m Matrix) String() string {
	rows := make([]string, len(m))
	for i, row := range m {
		rows[i] = strings.Trim(fmt.Sprint(row), "[]")
	}
	return "[" + strings.Join(rows, "; ") + "]"
}
