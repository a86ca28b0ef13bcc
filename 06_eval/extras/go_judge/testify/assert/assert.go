// Package assert has what HumanEval-X's tests use of testify's package of this name, so that they
// compile without it, anywhere and in half the time. A test compares the two.
package assert

import (
	"bytes"
	"reflect"
)

// TestingT is what is told of failures: a *testing.T.
type TestingT interface {
	Errorf(format string, args ...any)
}

// Assertions reports to the test that it was made for.
type Assertions struct {
	t TestingT
}

// New makes Assertions for a test.
func New(t TestingT) *Assertions {
	return &Assertions{t}
}

// Equal reports a failure, and returns false, unless two values are equal: slices of bytes by
// their content, all others as reflect.DeepEqual has it. Functions are equal to nothing.
func (a *Assertions) Equal(expected, actual any, message ...any) bool {
	return Equal(a.t, expected, actual, message...)
}

// Equal is Assertions.Equal for the test t.
func Equal(t TestingT, expected, actual any, message ...any) bool {
	if isFunction(expected) || isFunction(actual) {
		t.Errorf("functions can't be compared")
		return false
	}
	if !same(expected, actual) {
		t.Errorf("expected %#v, got %#v %v", expected, actual, message)
		return false
	}
	return true
}

func same(expected, actual any) bool {
	a, ok := expected.([]byte)
	b, also := actual.([]byte)
	if ok && also && a != nil && b != nil {
		return bytes.Equal(a, b)
	}
	return reflect.DeepEqual(expected, actual)
}

func isFunction(value any) bool {
	return value != nil && reflect.TypeOf(value).Kind() == reflect.Func
}
