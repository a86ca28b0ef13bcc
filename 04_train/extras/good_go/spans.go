package good

import (
	"cmp"
	"slices"
)

// Span is the whole numbers from Start up to, but without, End. It is empty if End <= Start.
type Span struct {
	Start, End int
}

// Len returns how many numbers are in the span.
// >>> Span{3, 7}.Len()
// 4
func (s Span) Len() int {
	return max(0, s.End-s.Start)
}

// Merge returns the numbers that are in any of the spans, as few spans in ascending order. Spans
// that touch become one. The argument is left as it is.
// >>> Merge([]Span{{8, 10}, {1, 4}, {3, 6}, {6, 7}})
// [{1 7} {8 10}]
func Merge(spans []Span) []Span {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b Span) int {
		return cmp.Compare(a.Start, b.Start)
	})
	var merged []Span
	for _, s := range sorted {
		if s.Len() == 0 {
			continue
		}
		if last := len(merged) - 1; last >= 0 && s.Start <= merged[last].End {
			merged[last].End = max(merged[last].End, s.End)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// Gaps returns what is left of whole when the numbers of all spans are taken out.
// >>> Gaps(Span{0, 24}, []Span{{9, 12}, {13, 17}})
// [{0 9} {12 13} {17 24}]
func Gaps(whole Span, spans []Span) []Span {
	var gaps []Span
	start := whole.Start
	for _, s := range Merge(spans) {
		if gap := (Span{start, min(s.Start, whole.End)}); gap.Len() > 0 {
			gaps = append(gaps, gap)
		}
		start = max(start, s.End)
	}
	if gap := (Span{start, whole.End}); gap.Len() > 0 {
		gaps = append(gaps, gap)
	}
	return gaps
}
