package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"inject/resolver/secret"
)

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// terminal is where a person can be asked, whatever the standard streams are.
type terminal struct {
	file    *os.File
	stopped <-chan struct{} // see app
}

// terminal returns the controlling terminal, nil if there is none.
func (a *app) terminal() *terminal {
	if a.stdin == nil {
		return nil
	}
	if isTerminal(a.stdin) {
		return &terminal{a.stdin, a.stopped}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return &terminal{tty, a.stopped}
}

var errInterrupted = errors.New("interrupted; nothing was changed")

// ask prompts and reads a line that is not shown. However it ends, the terminal
// shows what is typed again.
func (t *terminal) ask(prompt string) (secret.Value, error) {
	fd := int(t.file.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return secret.Value{}, fmt.Errorf("ask on the terminal: %w", err)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(interrupted)
	type line struct {
		b   []byte
		err error
	}
	read := make(chan line, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		read <- line{b, err}
	}()
	// Not before it is so: who interrupts now must find a terminal to set back.
	for range 1000 {
		if now, err := term.GetState(fd); err != nil || *now != *before || len(read) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t.print(prompt)
	defer t.print("\n")
	select {
	case l := <-read:
		if l.err != nil {
			return secret.Value{}, fmt.Errorf("%w: nothing was entered: %w", secret.ErrInvalid, l.err)
		}
		return secret.NewValue(l.b), nil
	case <-interrupted:
	case <-t.stopped:
	}
	return secret.Value{}, errors.Join(errInterrupted, term.Restore(fd, before))
}

// print writes to the terminal itself, where stderr may not go; or to stderr if
// the terminal is open for reading only.
func (t *terminal) print(text string) {
	if _, err := t.file.WriteString(text); err != nil {
		_, _ = os.Stderr.WriteString(text)
	}
}

// passphrase asks for one, and once more if it is a new one.
func (t *terminal) passphrase(prompt string, confirm bool) (secret.Value, error) {
	phrase, err := t.ask(prompt + ": ")
	if err != nil || !confirm {
		return phrase, err
	}
	again, err := t.ask(prompt + ", again: ")
	if err == nil && !phrase.Equal(again) {
		err = fmt.Errorf("%w: the two passphrases differ", secret.ErrInvalid)
	}
	return phrase, err
}

// line prompts and reads a line that is shown as it is typed.
func (t *terminal) line(prompt string) (string, error) {
	t.print(prompt)
	var line []byte
	for b := make([]byte, 1); ; {
		n, err := t.file.Read(b)
		switch {
		case err != nil:
			return "", fmt.Errorf("%w: nothing was entered: %w", secret.ErrInvalid, err)
		case n == 1 && b[0] == '\n':
			return string(line), nil
		}
		line = append(line, b[:n]...)
	}
}
