package problems

import (
	"errors"
	"io"
	"testing"
)

func TestWrapLoad(t *testing.T) {
	if err := WrapLoad("a.txt", nil); err != nil {
		t.Errorf("without an error it returns %v", err)
	}
	full := errors.New("disk full")
	for _, c := range []struct {
		name  string
		inner error
		want  string
	}{{"a.txt", io.EOF, "load a.txt: EOF"}, {"b/c.go", full, "load b/c.go: disk full"}} {
		err := WrapLoad(c.name, c.inner)
		if err == nil || err.Error() != c.want {
			t.Errorf("the error is %v, want %q", err, c.want)
		}
		if !errors.Is(err, c.inner) {
			t.Errorf("errors.Is does not find %v", c.inner)
		}
	}
}
