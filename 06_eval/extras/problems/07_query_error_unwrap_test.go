package problems

import (
	"errors"
	"testing"
)

func TestQueryErrorUnwrap(t *testing.T) {
	closed, slow := errors.New("closed"), errors.New("slow")
	for _, want := range []error{closed, slow} {
		var err error = &QueryError{"select 1", want}
		if got := errors.Unwrap(err); got != want {
			t.Errorf("Unwrap returns %v, want %v", got, want)
		}
		if !errors.Is(err, want) {
			t.Errorf("errors.Is does not find %v", want)
		}
	}
}
