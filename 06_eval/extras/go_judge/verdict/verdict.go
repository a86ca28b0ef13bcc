// Package verdict says whether the tests of code that is not trusted pass, so that the code can't say
// it instead. Whoever runs the program hands it a secret; a verdict counts only behind the secret. Go
// initialises a package after all that it imports, so the secret is read, and gone from the standard
// input, before a line of that code runs; and no code outside of this package can name the variable
// that holds it.
package verdict

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
)

var (
	secret, _ = io.ReadAll(os.Stdin)
	out       = os.NewFile(3, "verdict")
	kept      []sentinel
	_         = Keep(&bufio.ErrFinalToken, &bufio.ErrTooLong, &context.Canceled,
		&context.DeadlineExceeded, &errors.ErrUnsupported, &io.EOF, &io.ErrClosedPipe,
		&io.ErrNoProgress, &io.ErrShortBuffer, &io.ErrShortWrite, &io.ErrUnexpectedEOF,
		&os.ErrClosed, &os.ErrDeadlineExceeded, &os.ErrExist, &os.ErrInvalid, &os.ErrNotExist,
		&os.ErrPermission, &strconv.ErrRange, &strconv.ErrSyntax)
)

// A sentinel is a variable that tests compare errors with, which any code can change.
type sentinel struct {
	at  *error
	was error
}

// Keep remembers what such variables are. A test that ends when they are something else has failed.
func Keep(variables ...*error) bool {
	for _, at := range variables {
		kept = append(kept, sentinel{at, *at})
	}
	return true
}

func unchanged() bool {
	for _, one := range kept {
		if *one.at != one.was {
			return false
		}
	}
	return true
}

// Main runs the tests, says the verdict, and ends the program. No option of the command line is read,
// as the code could have set it. A test gets its T here; nobody else has one that counts.
func Main(tests ...func(*testing.T)) {
	var passed atomic.Int32
	all := func(t *testing.T) {
		for i, test := range tests {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				test(t)
				if unchanged() {
					passed.Add(1)
				}
			})
		}
	}
	judge := func(t *testing.T) {
		word := "wrong answer"
		if t.Run("all", all) && len(tests) > 0 && int(passed.Load()) == len(tests) {
			word = "passed"
		}
		out.Write(append(secret, word...))
	}
	flag.CommandLine.Parse(nil)
	every := func(_, _ string) (bool, error) { return true, nil }
	testing.Main(every, []testing.InternalTest{{Name: "judge", F: judge}}, nil, nil)
}
