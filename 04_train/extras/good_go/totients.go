package good

import "slices"

// Totients returns, for each number k from 0 to n, how many of 1 to k have no divisor in common
// with k but 1. A sieve in the way of Eratosthenes: a number that no smaller one has changed is
// prime, and takes its share from all its multiples.
// >>> Totients(10)
// [0 1 1 2 2 4 2 6 4 6 4]
func Totients(n int) []int {
	phi := make([]int, n+1)
	for k := range phi {
		phi[k] = k
	}
	for p := 2; p <= n; p++ {
		if phi[p] != p {
			continue
		}
		for multiple := p; multiple <= n; multiple += p {
			phi[multiple] -= phi[multiple] / p
		}
	}
	return phi
}

// DivisorCounts returns, for each number from 0 to n, how many divisors it has; for 0 that is 0.
// >>> DivisorCounts(12)
// [0 1 2 2 3 2 4 2 4 3 4 2 6]
func DivisorCounts(n int) []int {
	counts := make([]int, n+1)
	for d := 1; d <= n; d++ {
		for multiple := d; multiple <= n; multiple += d {
			counts[multiple]++
		}
	}
	return counts
}

// Pascal returns row n of Pascal's triangle: in how many ways 0, 1, ..., n of n things can be
// chosen.
// >>> Pascal(5)
// [1 5 10 10 5 1]
func Pascal(n int) []int {
	row := slices.Repeat([]int{1}, n+1)
	for i := 2; i <= n; i++ {
		for j := i - 1; j > 0; j-- { // from the right: row[j-1] is still of the row before
			row[j] += row[j-1]
		}
	}
	return row
}
