package good

import (
	"errors"
	"fmt"
	"sync"
)

// What a Bank refuses; errors.Is tells which it was.
var (
	ErrAmount       = errors.New("amount must be positive")
	ErrInsufficient = errors.New("insufficient funds")
)

// Cents is an amount of money in whole cents, so that nothing is lost in rounding.
type Cents int64

// String returns the amount with two decimals.
// >>> Cents(-1205)
// -12.05
func (c Cents) String() string {
	sign, n := "", uint64(c)
	if c < 0 {
		sign, n = "-", -n
	}
	return fmt.Sprintf("%s%d.%02d", sign, n/100, n%100)
}

// Bank keeps the balances of accounts. Its zero value is a bank without accounts. It is safe
// for use by several goroutines at once.
type Bank struct {
	mu       sync.Mutex
	balances map[string]Cents
}

// Deposit adds amount to an account, which is opened if need be.
func (b *Bank) Deposit(account string, amount Cents) error {
	if amount <= 0 {
		return fmt.Errorf("deposit %v: %w", amount, ErrAmount)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.balances == nil {
		b.balances = make(map[string]Cents)
	}
	b.balances[account] += amount
	return nil
}

// Transfer moves amount from one account to another: all of it, or nothing and an error.
func (b *Bank) Transfer(from, to string, amount Cents) error {
	if amount <= 0 {
		return fmt.Errorf("transfer %v: %w", amount, ErrAmount)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if have := b.balances[from]; have < amount {
		return fmt.Errorf("transfer %v from %q, which has %v: %w", amount, from, have, ErrInsufficient)
	}
	b.balances[from] -= amount
	b.balances[to] += amount
	return nil
}

// Balance returns what is in an account; one that was never opened holds nothing.
func (b *Bank) Balance(account string) Cents {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.balances[account]
}
