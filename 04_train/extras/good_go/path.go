package good

import "slices"

// Path returns a shortest way from one node to another, both included, or nil if there is none.
// Edges lead from each key to the nodes in its value. The search is breadth-first.
// >>> Path(map[string][]string{"a": {"b", "c"}, "b": {"d"}, "c": {"e"}, "d": {"e"}}, "a", "e")
// [a c e]
// >>> Path(map[string][]string{"a": {"b"}}, "b", "a")
// []
func Path(edges map[string][]string, from, to string) []string {
	before := map[string]string{from: ""} // where each node was first reached from
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		if queue[0] == to {
			var path []string
			for node := to; node != from; node = before[node] {
				path = append(path, node)
			}
			path = append(path, from)
			slices.Reverse(path)
			return path
		}
		for _, next := range edges[queue[0]] {
			if _, seen := before[next]; !seen {
				before[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// Reachable returns all nodes that a node leads to, itself included, in alphabetical order.
// >>> Reachable(map[string][]string{"a": {"b"}, "b": {"c", "a"}, "d": {"a"}}, "a")
// [a b c]
func Reachable(edges map[string][]string, from string) []string {
	seen := map[string]bool{from: true}
	nodes := []string{from}
	for i := 0; i < len(nodes); i++ { // nodes grows
		for _, next := range edges[nodes[i]] {
			if !seen[next] {
				seen[next] = true
				nodes = append(nodes, next)
			}
		}
	}
	slices.Sort(nodes)
	return nodes
}
