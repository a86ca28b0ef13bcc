package problems

import "sort"

// RankPlayers returns the names in points, those with the most points first. Names with equally
// many points are in alphabetical order.
func RankPlayers(points map[string]int) []string {
	var players []string
	for player := range points {
		players = append(players, player)
	}
	sort.Slice(players, func(i, j int) bool {
		a, b := players[i], players[j]
		return points[a] > points[b] || points[a] == points[b] && a < b
	})
	return players
}
