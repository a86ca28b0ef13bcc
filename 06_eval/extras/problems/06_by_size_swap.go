package problems

// File is a file with its size in bytes.
type File struct {
	Name string
	Size int64
}

// BySize sorts files by their size.
type BySize []File

// Len returns the number of files.
func (s BySize) Len() int {
	return len(s)
}

// Less returns true if file i is smaller than file j.
func (s BySize) Less(i, j int) bool {
	return s[i].Size < s[j].Size
}

// Swap swaps the files i and j.
func (s BySize) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
}
