package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"inject/resolver/secret"
)

// A question is what an answer without echo may be.
type question struct {
	limit  int  // the longest answer, in bytes
	alone  bool // a value: one line and nothing after it, without control characters
	pastes bool // a paste may have several lines
}

// The control sequences of bracketed paste, and what the terminal sends around a paste.
const (
	pasteOn    = "\x1b[?2004h"
	pasteOff   = "\x1b[?2004l"
	pasteBegin = "\x1b[200~"
	pasteEnd   = "\x1b[201~"
)

// silence is how many reads in a row must return nothing until a paste counts as over. Each waits for
// a tenth of a second.
const silence = 2

var (
	errNothing = fmt.Errorf("%w: nothing was entered", secret.ErrInvalid)
	errLines   = fmt.Errorf("%w: several lines were entered, and the terminal does not tell that they are one "+
		"paste; all of them were dropped", secret.ErrInvalid)
	errControl = fmt.Errorf("%w: a control character was typed, such as that of an arrow key; the input was dropped",
		secret.ErrInvalid)
	errCut = fmt.Errorf("%w: more was typed ahead of the question than a terminal keeps; all of it was dropped",
		secret.ErrInvalid)
	errEnded = errors.New("the terminal is gone")
)

// asking is one question in progress. The terminal does not collect a line for us, because it keeps
// only the first 4095 bytes of one: we read each byte as it comes, and edit the line.
type asking struct {
	question
	*Terminal
	fd      int
	before  unix.Termios
	signals chan os.Signal
	prompt  string
	answer  []byte
}

// ask prompts and reads an answer without echo. It reads no byte after the answer, unless q.alone.
func (t *Terminal) ask(prompt string, q question) (secret.Value, error) {
	a := &asking{question: q, Terminal: t, fd: int(t.file.Fd()), prompt: prompt, signals: make(chan os.Signal, 1)}
	var err error
	if a.before, err = modes(a.fd); err != nil {
		return secret.Value{}, fmt.Errorf("ask on the terminal: %w", err)
	}
	asks := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	if t.stopped == nil { // otherwise the caller has taken the signals of the terminal
		asks = append(asks, syscall.SIGTSTP)
	}
	signal.Notify(a.signals, asks...)
	defer signal.Stop(a.signals)

	if err := a.begin(); err != nil {
		return secret.Value{}, err
	}
	err = a.read()
	if errors.Is(err, secret.ErrInvalid) && q.alone {
		a.drop()
	}
	a.end("\n")
	if errors.Is(err, errEnded) {
		err = fmt.Errorf("%w: %w", errNothing, err)
	}
	if err != nil {
		return secret.Value{}, err
	}
	return secret.NewValue(a.answer), nil
}

// begin turns echo off, then prompts: a person who interrupts at the prompt must find echo
// restored, and what is typed after the prompt must not be shown.
func (a *asking) begin() error {
	if err := a.quiet(); err != nil {
		return err
	}
	if a.alone && waiting(a.fd) >= maxLine {
		a.drop()
		a.end("")
		return errCut
	}
	a.print(a.sequence(pasteOn) + a.prompt)
	return nil
}

// quiet turns echo off, and makes each read return after a tenth of a second.
func (a *asking) quiet() error {
	raw := a.before
	raw.Lflag &^= unix.ICANON | unix.ECHO
	raw.Lflag |= unix.ISIG
	raw.Iflag &^= unix.ICRNL | unix.INLCR | unix.IGNCR
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 0, 1
	if err := setModes(a.fd, &raw); err != nil {
		return fmt.Errorf("ask on the terminal: %w", err)
	}
	return nil
}

// end restores the terminal.
func (a *asking) end(text string) {
	a.print(a.sequence(pasteOff) + text)
	_ = setModes(a.fd, &a.before) // it worked before, or the terminal is gone
}

func (a *asking) sequence(text string) string {
	if !a.pastes {
		return ""
	}
	return text
}

// next returns the next byte that is entered, or ok false if none was for a tenth of a second.
func (a *asking) next() (c byte, ok bool, err error) {
	select {
	case sig := <-a.signals:
		if sig == syscall.SIGTSTP {
			return 0, false, a.stop()
		}
		number, _ := sig.(syscall.Signal) // all signals are
		return 0, false, &InterruptedError{number}
	case <-a.stopped:
		return 0, false, &InterruptedError{}
	default:
	}
	var b [1]byte
	n, err := unix.Read(a.fd, b[:])
	switch {
	case errors.Is(err, unix.EINTR):
		return 0, false, nil
	case errors.Is(err, unix.EAGAIN): // a descriptor that a parent has made so
		time.Sleep(time.Second / 10)
		return 0, false, nil
	case err != nil:
		return 0, false, errEnded
	case n == 0:
		now, err := modes(a.fd)
		if err != nil {
			return 0, false, errEnded
		}
		if now.Lflag&unix.ECHO != 0 { // a shell that continues us may set its own modes after that
			return 0, false, a.quiet()
		}
		return 0, false, nil
	}
	return b[0], true, nil
}

// stop stops this process, as SIGTSTP would have, and asks again when it is continued.
func (a *asking) stop() error {
	a.end("\n")
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	<-continued             // this thread may run on for a moment
	a.answer = a.answer[:0] // the terminal has dropped what was typed last
	return a.begin()
}

// must is next, but waits until a byte is entered.
func (a *asking) must() (byte, error) {
	for {
		if c, ok, err := a.next(); ok || err != nil {
			return c, err
		}
	}
}

// read reads the answer.
func (a *asking) read() error {
	for {
		c, err := a.must()
		if err != nil {
			return err
		}
		switch {
		case c == '\r' || c == '\n':
			return a.line()
		case c == a.before.Cc[unix.VEOF] || c == 0: // the terminal makes 0 of one that was typed ahead
			return errNothing
		case c == a.before.Cc[unix.VERASE] || c == '\b' || c == 0x7f:
			_, last := utf8.DecodeLastRune(a.answer)
			a.answer = a.answer[:len(a.answer)-last]
		case c == a.before.Cc[unix.VKILL]:
			a.answer = a.answer[:0]
		case c == a.before.Cc[unix.VWERASE]:
			word := bytes.TrimRight(a.answer, " \t")
			a.answer = a.answer[:bytes.LastIndexAny(word, " \t")+1]
		case c == pasteBegin[0] && a.pastes:
			if err := a.paste(); err != nil {
				return err
			}
		case c < ' ' && c != '\t' && a.alone:
			return errControl
		default:
			a.answer = append(a.answer, c)
		}
		if len(a.answer) > a.limit {
			return fmt.Errorf("%w: more than %d bytes were entered; all of them were dropped",
				secret.ErrInvalid, a.limit)
		}
	}
}

// line ends the answer at the end of a line.
func (a *asking) line() error {
	if len(a.answer) == 0 {
		return errNothing
	}
	for range silence {
		if !a.alone {
			break
		}
		_, more, err := a.next()
		if err != nil {
			return err
		}
		if more {
			return errLines
		}
	}
	return nil
}

// paste reads a paste, whose first byte has been read. Terminals send a carriage return for the end
// of a line. That after the only line is not a part of the value: a person has selected it with the
// line.
func (a *asking) paste() error {
	for _, want := range []byte(pasteBegin[1:]) {
		c, err := a.must()
		if err != nil {
			return err
		}
		if c != want {
			return errControl
		}
	}
	begin := len(a.answer)
	for !bytes.HasSuffix(a.answer[begin:], []byte(pasteEnd)) {
		c, err := a.must()
		if err != nil {
			return err
		}
		if a.answer = append(a.answer, c); len(a.answer) > a.limit+len(pasteEnd) {
			return nil // read says so
		}
	}
	pasted := bytes.TrimSuffix(a.answer[begin:], []byte(pasteEnd))
	pasted = bytes.ReplaceAll(pasted, []byte("\r\n"), []byte("\n"))
	pasted = bytes.ReplaceAll(pasted, []byte("\r"), []byte("\n"))
	if bytes.Count(pasted, []byte("\n")) == 1 {
		pasted = bytes.TrimSuffix(pasted, []byte("\n"))
	}
	a.answer = append(a.answer[:begin], pasted...)
	return nil
}

// drop reads and forgets what is entered until nothing is for a while, so that the next program
// that reads the terminal does not get it.
func (a *asking) drop() {
	for silent := 0; silent <= silence; {
		_, ok, err := a.next()
		switch {
		case err != nil:
			return
		case ok:
			silent = 0
		default:
			silent++
		}
	}
	dropInput(a.fd)
}
