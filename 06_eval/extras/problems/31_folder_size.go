package problems

// Folder holds files, of which only the sizes are known, and other folders.
type Folder struct {
	Files   []int
	Folders []*Folder
}

// Size returns the sum of the sizes of all files in f and in its folders, at any depth.
func (f *Folder) Size() int {
	total := 0
	for _, size := range f.Files {
		total += size
	}
	for _, folder := range f.Folders {
		total += folder.Size()
	}
	return total
}
