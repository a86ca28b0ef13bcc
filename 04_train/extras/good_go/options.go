package good

import (
	"errors"
	"fmt"
	"time"
)

// Client is a connection's settings, once NewClient has checked them.
type Client struct {
	address string
	timeout time.Duration
	retries int
}

// Option changes a setting of a Client, or says why it can't.
type Option func(*Client) error

// WithTimeout sets how long a request may take; without it that is ten seconds.
func WithTimeout(d time.Duration) Option {
	return func(c *Client) error {
		if d <= 0 {
			return fmt.Errorf("timeout is %v, but must be positive", d)
		}
		c.timeout = d
		return nil
	}
}

// WithRetries sets how often a failed request is sent again; without it that is never.
func WithRetries(n int) Option {
	return func(c *Client) error {
		if n < 0 {
			return fmt.Errorf("retries is %d, but must not be negative", n)
		}
		c.retries = n
		return nil
	}
}

// NewClient returns a client for an address. All that is wrong with its arguments is reported
// in one error.
func NewClient(address string, options ...Option) (*Client, error) {
	c := &Client{address: address, timeout: 10 * time.Second}
	var problems []error
	if address == "" {
		problems = append(problems, errors.New("address is empty"))
	}
	for _, option := range options {
		problems = append(problems, option(c))
	}
	if err := errors.Join(problems...); err != nil { // nil if all of them are
		return nil, fmt.Errorf("new client: %w", err)
	}
	return c, nil
}

// String describes the client in one line.
func (c *Client) String() string {
	return fmt.Sprintf("%s (timeout %v, %d retries)", c.address, c.timeout, c.retries)
}
