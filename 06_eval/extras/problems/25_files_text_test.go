package problems

import "testing"

func TestFilesText(t *testing.T) {
	for n, want := range map[int]string{0: "0 files", 1: "1 file", 2: "2 files", 11: "11 files"} {
		if got := FilesText(n); got != want {
			t.Errorf("FilesText(%d) is %q, want %q", n, got, want)
		}
	}
}
