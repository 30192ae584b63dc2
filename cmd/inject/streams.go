package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"inject/cli"
	"inject/exec"
	"inject/exec/redact"
)

// open opens a file for reading. The path - means stdin.
func (a *app) open(path string) (*os.File, error) {
	if path == "-" {
		return a.stdin, nil
	}
	return os.Open(path) //nolint:gosec // the user's choice
}

// stream returns a writer that masks values and writes to f. A pipe gets a larger buffer.
func (a *app) stream(f *os.File) *redact.Writer {
	exec.WidenPipe(f)
	return a.redactor.LiveWriter(f)
}

// say prints a message on stderr.
func (a *app) say(text string) { _, _ = io.WriteString(a.masked(a.stderr), "inject: "+text+"\n") }

// mask returns text with every known value masked. Texts are masked before they are encoded as
// JSON: in the JSON, a mask could replace a part of its syntax.
func (a *app) mask(text string) string {
	var b strings.Builder
	_, _ = io.WriteString(a.masked(&b), text)
	return b.String()
}

// masked returns a writer that masks all values that are known at the time of a write. Each
// write must be a whole message, because a value that two writes share is not found.
func (a *app) masked(w io.Writer) io.Writer { return &messages{a, w} }

type messages struct {
	a *app
	w io.Writer
}

func (m *messages) Write(p []byte) (int, error) {
	if m.a.redactor == nil {
		return writeAll(m.a.key.Writer(m.w), p)
	}
	w := m.a.redactor.Writer(m.w)
	n, err := writeAll(m.a.key.Writer(w), p)
	return n, errors.Join(err, w.Close())
}

// writeAll writes p to w and closes w.
func writeAll(w io.WriteCloser, p []byte) (int, error) {
	n, err := w.Write(p)
	return n, errors.Join(err, w.Close())
}

// terminal returns the terminal on which a person can be asked, nil if there is none.
func (a *app) terminal() *cli.Terminal {
	return cli.OpenTerminal(a.stdin, a.stopped, a.set.Found.Terminal == "dumb")
}
