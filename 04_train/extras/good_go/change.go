package good

import (
	"math"
	"slices"
)

// FewestCoins returns the fewest coins that make up an amount, the largest first; there are as
// many of each coin as needed. It returns nil if there is no way, or nothing to pay.
// >>> FewestCoins([]int{1, 7, 10}, 14)
// [7 7]
// >>> FewestCoins([]int{4, 6}, 9)
// []
func FewestCoins(coins []int, amount int) []int {
	if amount <= 0 {
		return nil
	}
	fewest := make([]int, amount+1) // fewest[a]: how many coins make up a
	last := make([]int, amount+1)   // last[a]: one of them
	for a := 1; a <= amount; a++ {
		fewest[a] = math.MaxInt
		for _, coin := range coins {
			if coin < 1 || coin > a || fewest[a-coin] == math.MaxInt {
				continue
			}
			if n := fewest[a-coin] + 1; n < fewest[a] {
				fewest[a], last[a] = n, coin
			}
		}
	}
	if fewest[amount] == math.MaxInt {
		return nil
	}
	var paid []int
	for a := amount; a > 0; a -= last[a] {
		paid = append(paid, last[a])
	}
	slices.SortFunc(paid, func(a, b int) int { return b - a })
	return paid
}

// LongestRise returns the length of the longest part of values, not necessarily in a row, in
// which each is greater than the one before. It takes time n log n.
// >>> LongestRise([]int{3, 1, 8, 2, 5})
// 3
func LongestRise(values []int) int {
	var ends []int // ends[k]: the least value in which a rise of length k+1 ends
	for _, v := range values {
		k, _ := slices.BinarySearch(ends, v)
		if k == len(ends) {
			ends = append(ends, v)
		} else {
			ends[k] = v
		}
	}
	return len(ends)
}
