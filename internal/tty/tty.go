// Package tty answers two questions: is this file a terminal, and is that terminal gone? Both programs
// ask the first, and injectd must not link package exec for the answer.
package tty

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/term"
)

// Is reports whether f is a terminal. A nil file is not, and neither is a terminal that is gone.
func Is(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// HungUp reports whether f is a terminal that is gone, for good: all writes to it fail with EIO. A nil
// file is none.
func HungUp(f *os.File) bool {
	if f == nil {
		return false
	}
	_, err := term.GetState(int(f.Fd()))
	return errors.Is(err, syscall.EIO)
}
