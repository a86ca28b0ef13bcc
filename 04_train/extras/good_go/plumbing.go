package good

import (
	"bufio"
	"fmt"
	"io"
)

// NumberLines copies r to w with the number of each line before it.
func NumberLines(w io.Writer, r io.Reader) error {
	out := bufio.NewWriter(w)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fmt.Fprintf(out, "%4d  %s\n", n, lines.Text()) // an error stays in out until Flush
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("number lines: %w", err)
	}
	return out.Flush()
}

// Meter is a writer that counts what passes through it to the next one.
type Meter struct {
	w     io.Writer
	bytes int64
}

// NewMeter returns a Meter in front of w.
func NewMeter(w io.Writer) *Meter {
	return &Meter{w: w}
}

// Write writes p to the next writer and counts how much of it was taken.
func (m *Meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.bytes += int64(n)
	return n, err
}

// Bytes returns how many bytes have passed so far.
func (m *Meter) Bytes() int64 {
	return m.bytes
}

// ByteMapper is a reader of what another one reads, with a function applied to each byte.
type ByteMapper struct {
	r io.Reader
	f func(byte) byte
}

// MapBytes returns a reader of what r reads, with f applied to each byte.
func MapBytes(r io.Reader, f func(byte) byte) *ByteMapper {
	return &ByteMapper{r, f}
}

// Read fills p from the reader behind it. Bytes may come together with an error, even io.EOF.
func (m *ByteMapper) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	for i, b := range p[:n] {
		p[i] = m.f(b)
	}
	return n, err
}
