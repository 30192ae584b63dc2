// Package tty answers one question: is this file a terminal? Both programs ask it, and injectd
// must not link package exec for the answer.
package tty

import (
	"os"

	"golang.org/x/term"
)

// Is reports whether f is a terminal. A nil file is not.
func Is(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }
