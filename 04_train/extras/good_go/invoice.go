package good

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Item is one line of an invoice. Its price is in cents.
type Item struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
	Price int64  `json:"price"`
}

// Invoice is what a customer owes, and for what.
type Invoice struct {
	Number   string `json:"number"`
	Customer string `json:"customer"`
	Note     string `json:"note,omitempty"`
	Items    []Item `json:"items"`
}

// Total returns the sum of all items, in cents.
// >>> Invoice{Items: []Item{{"tea", 2, 350}, {"cake", 1, 480}}}.Total()
// 1180
func (v Invoice) Total() int64 {
	var total int64
	for _, item := range v.Items {
		total += int64(item.Count) * item.Price
	}
	return total
}

func (v Invoice) check() error {
	if v.Number == "" {
		return errors.New("no number")
	}
	for i, item := range v.Items {
		if item.Count < 1 {
			return fmt.Errorf("item %d (%s): count is %d", i, item.Name, item.Count)
		}
	}
	return nil
}

// ReadInvoice reads one invoice as JSON. A field that it does not know is an error: it is more
// likely a typing mistake than something to pass over.
func ReadInvoice(r io.Reader) (Invoice, error) {
	var v Invoice
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&v); err != nil {
		return Invoice{}, fmt.Errorf("read invoice: %w", err)
	}
	if err := v.check(); err != nil {
		return Invoice{}, fmt.Errorf("invoice %q: %w", v.Number, err)
	}
	return v, nil
}
