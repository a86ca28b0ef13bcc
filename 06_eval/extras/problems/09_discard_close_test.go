package problems

import (
	"io"
	"testing"
)

func TestDiscardClose(t *testing.T) {
	var w io.WriteCloser = &Discard{}
	for i := 0; i < 2; i++ {
		if err := w.Close(); err != nil {
			t.Errorf("Close returns %v", err)
		}
	}
}
