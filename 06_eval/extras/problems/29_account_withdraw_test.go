package problems

import "testing"

func TestAccountWithdraw(t *testing.T) {
	a := &Account{balance: 10}
	for _, c := range []struct {
		amount int
		err    error
		left   int
	}{{3, nil, 7}, {8, ErrFunds, 7}, {7, nil, 0}, {1, ErrFunds, 0}, {0, nil, 0}} {
		if err := a.Withdraw(c.amount); err != c.err {
			t.Errorf("Withdraw(%d) is %v, want %v", c.amount, err, c.err)
		}
		if a.balance != c.left {
			t.Errorf("Withdraw(%d) leaves %d, want %d", c.amount, a.balance, c.left)
		}
	}
}
