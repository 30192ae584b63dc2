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

// mask returns text with every value masked that is known.
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
	w := m.a.redactor.Writer(m.w)
	key := m.a.key.Writer(w)
	n, err := key.Write(p)
	return n, errors.Join(err, key.Close(), w.Close())
}

// terminal returns where a person can be asked, nil if nowhere.
func (a *app) terminal() *cli.Terminal { return cli.OpenTerminal(a.stdin, a.stopped) }
