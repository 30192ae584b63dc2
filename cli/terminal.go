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

// ErrInterrupted is the error of who was asked and ended the question by a signal.
var ErrInterrupted = errors.New("interrupted; nothing was changed")

// A Terminal is where a person can be asked, whatever the standard streams are. One
// question is asked at a time.
type Terminal struct {
	file    *os.File
	stopped <-chan struct{}
}

// OpenTerminal returns stdin if it is a terminal, else the controlling one, and nil
// if there is none or stdin is nil. A question ends when stopped is closed, too,
// which may be nil; it does when signals are taken by somebody else.
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

// Ask prompts and reads a line that is not shown. However it ends, the terminal
// shows what is typed again. Its error is [ErrInterrupted], or wraps
// [secret.ErrInvalid] when nothing was entered.
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
	return secret.Value{}, errors.Join(ErrInterrupted, term.Restore(fd, before))
}

// Passphrase asks for one, and once more if confirm says that it is a new one. Its
// errors are those of Ask, or wrap [secret.ErrInvalid] when the two differ.
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

// Line prompts and reads a line that is shown as it is typed. Its error wraps
// [secret.ErrInvalid]: nothing was entered.
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

// print writes to the terminal itself, where stderr may not go; or to stderr if
// the terminal is open for reading only.
func (t *Terminal) print(text string) {
	if _, err := t.file.WriteString(text); err != nil {
		_, _ = os.Stderr.WriteString(text)
	}
}
