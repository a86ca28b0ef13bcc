package problems

import (
	"strings"
	"testing"
)

func TestRankPlayers(t *testing.T) {
	type m = map[string]int
	for want, points := range map[string]m{
		"":                m{},
		"ann":             m{"ann": 3},
		"bob ann":         m{"ann": 1, "bob": 2},
		"ann bob cid dan": m{"dan": 4, "cid": 4, "bob": 4, "ann": 4},
		"eve bob dan ann": m{"ann": -1, "bob": 5, "dan": 5, "eve": 9},
		"a c e b d f":     m{"a": 2, "b": 1, "c": 2, "d": 1, "e": 2, "f": 1},
	} {
		for i := 0; i < 5; i++ { // the order of a map is another each time
			if got := strings.Join(RankPlayers(points), " "); got != want {
				t.Fatalf("of %v it is %q, want %q", points, got, want)
			}
		}
	}
}
