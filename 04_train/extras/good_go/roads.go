package good

import (
	"container/heap"
	"maps"
)

// Roads says for each town how far it is to its neighbours. No distance is negative.
type Roads map[string]map[string]int

// Distances returns how far it is from one town to each that can be reached, by the shortest way
// (Dijkstra 1959).
// >>> Roads{"a": {"b": 4, "c": 1}, "c": {"b": 2}, "x": {"a": 1}}.Distances("a")
// map[a:0 b:3 c:1]
func (r Roads) Distances(from string) map[string]int {
	final := make(map[string]int)
	open := &stops{{from, 0}}
	for open.Len() > 0 {
		nearest := heap.Pop(open).(stop)
		if _, ok := final[nearest.town]; ok {
			continue // it was reached before, on a shorter way
		}
		final[nearest.town] = nearest.distance
		for town, d := range r[nearest.town] {
			if _, ok := final[town]; !ok {
				heap.Push(open, stop{town, nearest.distance + d})
			}
		}
	}
	return final
}

// Within returns the roads that are no longer than limit; every town stays.
func (r Roads) Within(limit int) Roads {
	short := make(Roads, len(r))
	for town, neighbours := range r {
		short[town] = maps.Clone(neighbours)
		maps.DeleteFunc(short[town], func(_ string, d int) bool { return d > limit })
	}
	return short
}

type stop struct {
	town     string
	distance int
}

// stops is a heap.Interface with the nearest stop on top.
type stops []stop

func (s stops) Len() int           { return len(s) }
func (s stops) Less(i, j int) bool { return s[i].distance < s[j].distance }
func (s stops) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *stops) Push(x any)        { *s = append(*s, x.(stop)) }

func (s *stops) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	*s = (*s)[:last]
	return x
}
