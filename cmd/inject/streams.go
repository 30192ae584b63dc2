package main

import (
	"errors"
	"io"
	"os"
	"strings"

	"inject/cli"
	"inject/exec"
	"inject/exec/redact"
	"inject/internal/tty"
)

// open opens a file for reading; - is stdin.
func (a *app) open(path string) (*os.File, error) {
	if path == "-" {
		return a.stdin, nil
	}
	return os.Open(path) //nolint:gosec // the user's choice
}

// stream returns a stream that is masked to f: one for a person if f is a terminal. If
// it is a pipe it is made to hold more.
func (a *app) stream(f *os.File) *redact.Writer {
	if tty.Is(f) {
		return a.redactor.TerminalWriter(f)
	}
	exec.WidenPipe(f)
	return a.redactor.Writer(f)
}

// say tells a person something, on stderr.
func (a *app) say(text string) { _, _ = io.WriteString(a.masked(a.stderr), "inject: "+text+"\n") }

// mask returns text with every value masked that is known, to be put in JSON: in the JSON
// itself a mask could replace its own signs.
func (a *app) mask(text string) string {
	var b strings.Builder
	_, _ = io.WriteString(a.masked(&b), text)
	return b.String()
}

// masked returns a writer of whole messages to w that masks every value that is
// known by then.
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

// writeAll writes p as a whole stream.
func writeAll(w io.WriteCloser, p []byte) (int, error) {
	n, err := w.Write(p)
	return n, errors.Join(err, w.Close())
}

// terminal returns where a person can be asked, nil if nowhere.
func (a *app) terminal() *cli.Terminal { return cli.OpenTerminal(a.stdin, a.stopped) }
