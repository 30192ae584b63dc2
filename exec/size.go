package exec

import (
	"fmt"
	"strings"
)

// SizeError says that a program's arguments and environment are too large for execve(2), either one
// of them alone or all together.
type SizeError struct {
	// Largest describes the largest of them: "the variable NAME" or "argument N", where argument
	// 0 is the program's name. It contains no values.
	Largest string
	// Bytes is the length of that one, with its final NUL.
	Bytes int
	// Total is the length of all together, with 8 bytes for the pointer to each. It is 0 if
	// Largest is too large alone.
	Total int
	// Limit is the largest allowed Total, or the largest allowed Bytes if Total is 0.
	Limit int
}

// Error names the largest of them and the sizes.
func (e *SizeError) Error() string {
	if e.Total == 0 {
		return fmt.Sprintf("%s is %d bytes long, and a program takes at most %d", e.Largest, e.Bytes, e.Limit)
	}
	return fmt.Sprintf("its arguments and environment are %d bytes together, and a program takes at most %d; "+
		"the largest is %s with %d", e.Total, e.Limit, e.Largest, e.Bytes)
}

// checkSize returns a [*SizeError] if the system cannot start path with args and env.
func checkSize(path string, args, env []string) error {
	alone, together := sizeLimits()
	if alone == 0 {
		return nil // the limits are unknown here, so leave it to the system
	}
	const pointer = 8
	total, largest := len(path)+1, &SizeError{}
	for i, list := range [][]string{args, env} {
		for n, s := range list {
			total += len(s) + 1 + pointer
			if len(s)+1 <= largest.Bytes {
				continue
			}
			largest.Bytes, largest.Largest = len(s)+1, fmt.Sprintf("argument %d", n)
			if i == 1 {
				largest.Largest = "an entry that is not a variable"
				if name, _, ok := strings.Cut(s, "="); ok && len(name) < 256 {
					largest.Largest = "the variable " + name
				}
			}
		}
	}
	switch {
	case largest.Bytes > alone:
		largest.Limit = alone
		return largest
	case total > together:
		largest.Total, largest.Limit = total, together
		return largest
	}
	return nil
}
