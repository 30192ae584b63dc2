package cli

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"inject/internal/tty"
	"inject/resolver/secret"
)

// ErrInterrupted is the error of a question that was ended by a signal, such as Ctrl-C.
var ErrInterrupted = errors.New("interrupted; nothing was changed")

// A Terminal asks a person, even when the standard streams are redirected. It may ask one
// question at a time.
type Terminal struct {
	file    *os.File
	stopped <-chan struct{}
}

// OpenTerminal returns stdin if it is a terminal, else the controlling terminal, and nil
// if there is neither or stdin is nil. A question also ends when stopped is closed: a caller
// that handles the signals itself closes it. Otherwise stopped may be nil.
func OpenTerminal(stdin *os.File, stopped <-chan struct{}) *Terminal {
	if stdin == nil {
		return nil
	}
	if tty.Is(stdin) {
		return &Terminal{stdin, stopped}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return &Terminal{tty, stopped}
}

// Ask prompts and reads a line without echo. Echo is on again when it returns, also after an
// error. Its error is [ErrInterrupted], or wraps [secret.ErrInvalid] if nothing was entered.
func (t *Terminal) Ask(prompt string) (secret.Value, error) {
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
	// Prompt only after echo is off: a person who interrupts at the prompt must find it
	// restored, and what is typed after the prompt must not be shown.
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
	return secret.Value{}, errors.Join(ErrInterrupted, term.Restore(fd, before))
}

// Passphrase asks for a passphrase, and with confirm, for a new one, asks twice. Its errors
// are those of Ask, or wrap [secret.ErrInvalid] if the two answers differ.
func (t *Terminal) Passphrase(prompt string, confirm bool) (secret.Value, error) {
	phrase, err := t.Ask(prompt + ": ")
	if err != nil || !confirm {
		return phrase, err
	}
	again, err := t.Ask(prompt + ", again: ")
	if err == nil && !phrase.Equal(again) {
		err = fmt.Errorf("%w: the two passphrases differ", secret.ErrInvalid)
	}
	return phrase, err
}

// Line prompts and reads a line with echo. Its error wraps [secret.ErrInvalid]: nothing was
// entered.
func (t *Terminal) Line(prompt string) (string, error) {
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

// print writes to the terminal, since stderr may be redirected, or to stderr if the
// terminal is open for reading only.
func (t *Terminal) print(text string) {
	if _, err := t.file.WriteString(text); err != nil {
		_, _ = os.Stderr.WriteString(text)
	}
}
