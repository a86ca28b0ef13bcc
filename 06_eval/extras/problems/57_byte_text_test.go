package problems

import "testing"

func TestByteText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 512: "512 B", 1023: "1023 B", 1024: "1.0 KB", 1536: "1.5 KB", 10 << 10: "10.0 KB",
		1 << 20: "1.0 MB", 5<<20 + 1<<19: "5.5 MB", 1 << 30: "1.0 GB", 3 << 40: "3.0 TB",
		1010 << 10: "1010.0 KB", 1 << 50: "1024.0 TB",
	} {
		if got := ByteText(n); got != want {
			t.Errorf("ByteText(%d) is %q, want %q", n, got, want)
		}
	}
}
