package problems

import "testing"

func TestFolderSize(t *testing.T) {
	deep := &Folder{Files: []int{5, 6}}
	middle := &Folder{Files: []int{10}, Folders: []*Folder{deep, {}}}
	top := &Folder{Files: []int{100, 200}, Folders: []*Folder{middle, {Files: []int{1000}}}}
	for f, want := range map[*Folder]int{{}: 0, deep: 11, middle: 21, top: 1321} {
		if got := f.Size(); got != want {
			t.Errorf("the size is %d, want %d", got, want)
		}
	}
}
