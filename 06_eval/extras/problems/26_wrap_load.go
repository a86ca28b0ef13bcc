package problems

import "fmt"

// WrapLoad returns nil if err is nil. Otherwise it returns an error that wraps err and says which
// file was loaded: the text of WrapLoad("a.txt", io.EOF) is "load a.txt: EOF".
func WrapLoad(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("load %s: %w", name, err)
}
