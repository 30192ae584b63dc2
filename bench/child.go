package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// The verbs with which this program starts itself as a process of a pipe.
const (
	producerVerb = "producer" // TEXT-FILE BYTES WRITE
	consumerVerb = "consumer"
)

// hollowVerb starts a server: hollow CERT KEY.
const hollowVerb = "hollow"

func child(ctx context.Context, verb string, args []string) error {
	switch {
	case verb == producerVerb && len(args) == 3:
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		write, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return produce(args[0], size, write)
	case verb == consumerVerb && len(args) == 0:
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{os.Stdin}, make([]byte, 256<<10))
		return err
	case verb == hollowVerb && len(args) == 2:
		return hollow(ctx, args[0], args[1])
	case verb == leaderVerb && len(args) > 1:
		times, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return leader(times, args[1:])
	default:
		return errors.New(usage)
	}
}

// produce reads the text in file into memory and writes it again and again, in writes of
// write bytes, until size bytes are written.
func produce(file string, size, write int) error {
	text, err := os.ReadFile(file) //nolint:gosec // the one that was named
	if err != nil {
		return err
	}
	for size > 0 {
		rest := text[:min(size, len(text))]
		size -= len(rest)
		for len(rest) > 0 {
			n, err := os.Stdout.Write(rest[:min(write, len(rest))])
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			rest = rest[n:]
		}
	}
	return nil
}
