package problems

import "errors"

// ErrFunds is returned if there is not enough money.
var ErrFunds = errors.New("not enough money")

// Account is a bank account.
type Account struct {
	balance int
}

// Deposit adds amount to the balance.
func (a *Account) Deposit(amount int) {
	a.balance += amount
}

// Withdraw subtracts amount from the balance. If amount is more than the balance, it returns
// ErrFunds and leaves the balance as it is.
func (a *Account) Withdraw(amount int) error {
	if amount > a.balance {
		return ErrFunds
	}
	a.balance -= amount
	return nil
}
