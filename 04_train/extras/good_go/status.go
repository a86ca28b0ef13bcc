package good

import (
	"fmt"
	"slices"
)

// Status is how far an order has come. Its zero value is that of a new order.
type Status int

// All that can become of an order.
const (
	Placed Status = iota
	Paid
	Shipped
	Delivered
	Cancelled
)

var statusNames = [...]string{"placed", "paid", "shipped", "delivered", "cancelled"}

// String returns the name of the status.
// >>> Shipped
// shipped
// >>> Status(9)
// Status(9)
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return fmt.Sprintf("Status(%d)", int(s))
	}
	return statusNames[s]
}

// ParseStatus is the inverse of String.
// >>> ParseStatus("paid")
// paid <nil>
func ParseStatus(name string) (Status, error) {
	if i := slices.Index(statusNames[:], name); i >= 0 {
		return Status(i), nil
	}
	return 0, fmt.Errorf("status is %q, but must be one of %q", name, statusNames)
}

var following = map[Status][]Status{
	Placed:  {Paid, Cancelled},
	Paid:    {Shipped, Cancelled},
	Shipped: {Delivered},
}

// TransitionError says from where to where an order cannot go. errors.As finds it.
type TransitionError struct {
	From, To Status
}

// Error describes the error in one line.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("an order that is %v cannot become %v", e.From, e.To)
}

// Become returns the new status, or a *TransitionError and the old one.
// >>> Shipped.Become(Cancelled)
// shipped an order that is shipped cannot become cancelled
func (s Status) Become(next Status) (Status, error) {
	if !slices.Contains(following[s], next) {
		return s, &TransitionError{s, next}
	}
	return next, nil
}
