package cli

import (
	"fmt"
	"os"
	"syscall"

	"inject/internal/tty"
	"inject/resolver/secret"
)

// InterruptedError is the error of a question that was ended by a signal, such as SIGINT, which
// Ctrl-C sends.
type InterruptedError struct {
	Signal syscall.Signal // 0 if the caller ended the question
}

func (e *InterruptedError) Error() string { return "interrupted; nothing was changed" }

// A Terminal asks a person, even when the standard streams are redirected. It may ask one
// question at a time.
type Terminal struct {
	file    *os.File
	stopped <-chan struct{}
	dumb    bool
}

// OpenTerminal returns stdin if it is a terminal, else the controlling terminal, and nil
// if there is neither or stdin is nil. A question also ends when stopped is closed: a caller
// that handles the signals itself closes it. Otherwise stopped may be nil. A terminal that is
// dumb is sent no control sequences, so it cannot tell where a paste begins and ends.
func OpenTerminal(stdin *os.File, stopped <-chan struct{}, dumb bool) *Terminal {
	if stdin == nil {
		return nil
	}
	if tty.Is(stdin) {
		return &Terminal{stdin, stopped, dumb}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return &Terminal{tty, stopped, dumb}
}

// Ask prompts and reads a value without echo: a line of at most limit bytes that is typed, or
// anything that is pasted, several lines included. The terminal says by bracketed paste
// (https://invisible-island.net/xterm/xterm-paste64.html) where a paste ends. If it does not,
// several lines are refused. What has been entered after a value that is refused is dropped, so
// that a shell does not run the rest of a key.
//
// The error is an [InterruptedError], or wraps [secret.ErrInvalid] if nothing or no value was
// entered. Echo is on again when Ask returns.
func (t *Terminal) Ask(prompt string, limit int) (secret.Value, error) {
	return t.ask(prompt, question{limit: limit, alone: true, pastes: !t.dumb})
}

// Passphrase asks for a passphrase, and with confirm, for a new one, asks twice. Its errors
// are those of Ask, or wrap [secret.ErrInvalid] if the two answers differ. Lines after it are left
// to the next program that reads the terminal.
func (t *Terminal) Passphrase(prompt string, confirm bool) (secret.Value, error) {
	const limit = 4096 // of bytes: as long as the line of a terminal
	phrase, err := t.ask(prompt+": ", question{limit: limit})
	if err != nil || !confirm {
		return phrase, err
	}
	again, err := t.ask(prompt+", again: ", question{limit: limit})
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
		case err != nil || n == 1 && b[0] == '\n' && len(line) == 0:
			return "", errNothing
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
