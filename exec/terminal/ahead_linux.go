package terminal

import (
	"bytes"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// typedAhead are keys that were typed before the person's terminal was in raw mode. That terminal
// has echoed them and made lines of them, so an end of input (Ctrl-D) is no byte any more. In raw
// mode it would be read as a zero byte.
type typedAhead struct {
	lines [][]byte // each is complete: by a line feed, or by an end of input, which has no byte here
}

// lineSize is more than the longest line that a terminal keeps.
const lineSize = 8 << 10

// takeLines reads the complete lines that were typed ahead. From here on the person's terminal keeps
// an end of input as the byte that was typed, so that none is lost before the raw mode begins. It
// returns nil if the terminal makes no lines.
func (t *Terminal) takeLines() *typedAhead {
	if t.saved.Lflag&unix.ICANON == 0 {
		return nil
	}
	var typed typedAhead
	take := func() {
		for line, ok := t.readTyped(); ok; line, ok = t.readTyped() {
			typed.lines = append(typed.lines, line)
		}
	}
	take() // all that was typed before we were here, because poll(2) waits until that is processed
	keyless := t.rawModes(t.saved)
	keyless.Lflag = keyless.Lflag&^external | unix.ICANON
	clear(keyless.Cc[:])
	if setModes(t.user, &keyless) == nil {
		take()
	}
	return &typed
}

// readTyped returns what can be read from the person's terminal now, and false if that is nothing.
func (t *Terminal) readTyped() ([]byte, bool) {
	fds := []unix.PollFd{{Fd: int32(t.user), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 || fds[0].Revents != unix.POLLIN {
		return nil, false
	}
	buf := make([]byte, lineSize)
	n, err := unix.Read(t.user, buf)
	return buf[:max(n, 0)], err == nil
}

// passOn gives the program what was typed ahead. If the program has not started, it is not echoed
// again. t.mu is held, and the person's terminal is in raw mode.
func (t *Terminal) passOn(typed *typedAhead) {
	if typed == nil {
		return
	}
	inner, err := modes(t.master)
	if err != nil {
		return
	}
	half, _ := t.readTyped()
	if t.group.Load() != 0 || t.feed(typed.lines, &half, inner) != nil {
		for _, line := range typed.lines {
			t.ahead = append(t.ahead, line...)
			if !bytes.HasSuffix(line, []byte{'\n'}) {
				t.ahead = append(t.ahead, inner.Cc[unix.VEOF])
			}
		}
	}
	t.ahead = append(t.ahead, half...)
}

// feedPatience is when feed gives up waiting for the kernel. Linux takes microseconds.
const feedPatience = 5 * time.Second

// The keys that have a meaning while feed writes to the pseudo-terminal.
const (
	feedEnd   = 0x04
	feedStart = 0x11
	feedStop  = 0x13
	feedQuote = 0x16
)

// plain returns how much of the incomplete line half has no key with a meaning in it. Such a key was
// typed when the person's terminal gave it no meaning any more, so the program's must.
func (t *Terminal) plain(half []byte) int {
	for i, c := range half {
		switch m := &t.saved; {
		case c == '\n', c == '\r' && m.Iflag&(unix.ICRNL|unix.IGNCR) != 0:
			return i
		case c != disabled && slices.Contains(m.Cc[:], c) && c != m.Cc[unix.VMIN] && c != m.Cc[unix.VTIME]:
			return i
		}
	}
	return len(half)
}

// feed writes lines, and the plain part of half, into the pseudo-terminal while that does not echo and
// gives no other key a meaning. It takes that part from half.
//
// The kernel processes what is written to a pseudo-terminal some time later, so feed must wait before
// it sets the modes that the program is to have. It types the keys that stop and start the output,
// whose effect the kernel reports in packet mode (ioctl_tty(2), TIOCPKT).
func (t *Terminal) feed(lines [][]byte, half *[]byte, inner unix.Termios) error {
	plain := t.plain(*half)
	if len(lines) == 0 && plain == 0 {
		return nil
	}
	if err := unix.IoctlSetPointerInt(t.master, unix.TIOCPKT, 1); err != nil {
		return err
	}
	defer unix.IoctlSetPointerInt(t.master, unix.TIOCPKT, 0) //nolint:errcheck // it could be set
	feeding := inner
	feeding.Iflag, feeding.Lflag = unix.IXON|inner.Iflag&unix.IUTF8, unix.ICANON|unix.IEXTEN
	clear(feeding.Cc[:])
	feeding.Cc[unix.VEOF], feeding.Cc[unix.VLNEXT] = feedEnd, feedQuote
	feeding.Cc[unix.VSTART], feeding.Cc[unix.VSTOP] = feedStart, feedStop
	if err := setModes(t.master, &feeding); err != nil {
		return err
	}
	defer setModes(t.master, &inner) //nolint:errcheck // modes that it had before

	var keys []byte
	quote := func(text []byte) {
		for _, c := range text {
			if slices.Contains([]byte{feedEnd, feedQuote, feedStart, feedStop}, c) {
				keys = append(keys, feedQuote)
			}
			keys = append(keys, c)
		}
	}
	for _, line := range lines {
		if quote(line); !bytes.HasSuffix(line, []byte{'\n'}) {
			keys = append(keys, feedEnd)
		}
	}
	quote((*half)[:plain])
	*half = (*half)[plain:]
	if _, err := unix.Write(t.master, append(keys, feedStop, feedStart)); err != nil {
		return err
	}
	status := make([]byte, lineSize)
	for {
		fds := []unix.PollFd{{Fd: int32(t.master), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		switch n, err := unix.Poll(fds, int(feedPatience.Milliseconds())); {
		case err != nil && !again(err):
			return err
		case err == nil && n == 0: // the kernel does not report it
			return nil
		}
		n, err := unix.Read(t.master, status)
		if err != nil && !again(err) {
			return err
		}
		if n > 0 && status[0]&unix.TIOCPKT_START != 0 {
			return nil
		}
	}
}
