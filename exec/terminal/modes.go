package terminal

import (
	"time"

	"golang.org/x/sys/unix"
)

// followEvery is how long a change of modes on one terminal may stay unseen on the other while
// there are neither keys nor output. The kernel reports no such change. Programs that drive a
// terminal look for one several times a second: pexpect waits so until the echo is off.
const followEvery = 50 * time.Millisecond

// attachModes puts the person's terminal into raw mode. t.mu is held.
func (t *Terminal) attachModes() error {
	now, err := modes(t.user)
	if err != nil {
		return err
	}
	var typed *typedAhead
	if !t.raw {
		if now == t.rawModes(now) {
			return ErrTaken
		}
		t.saved = now
		typed = t.takeLines()
		if now, err := modes(t.user); err == nil { // a driver may have changed them meanwhile
			agree(&t.saved, &now, &t.both)
		}
	}
	inner := t.saved
	if !t.began {
		t.began = true
		// The pseudo-terminal must pass on the text as it was written. If it replaced tabs by
		// spaces, a value that contains a tab would not be found in the output.
		inner.Oflag &^= changesText
		_ = setModes(t.master, &inner)
	} else if inner, err = modes(t.master); err != nil {
		return err
	}
	agree(&now, &inner, &t.both)
	now = t.rawModes(now)
	if err := setModes(t.user, &now); err != nil {
		return err
	}
	t.raw, t.agreed = true, inner
	t.passOn(typed)
	return nil
}

// followModes gives each terminal the modes that have changed on the other: whether it echoes, and
// how it processes written text. So the person's terminal has the modes that the program asks for,
// which matters to others who write to it and to programs that wait until it does not echo. Such a
// program may also turn the echo off itself.
//
// If the person's terminal is in raw mode no more, another process has set all of its modes. If
// keys have come since, that process is one that types, and its modes hold for the keys. Otherwise
// it may be a shell whose job we are, and its modes are not for the program.
func (t *Terminal) followModes(keys bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.follow(keys)
}

func (t *Terminal) follow(keys bool) {
	if !t.raw || t.writing {
		return
	}
	inner, err := modes(t.master)
	if err != nil {
		return
	}
	outer, err := modes(t.user)
	if err != nil {
		return
	}
	switch {
	case !differ(&inner, &outer, &t.both):
	case !t.Foreground(): // the modes are those of another job
		return
	case differ(&inner, &t.agreed, &t.both):
		agree(&outer, &inner, &t.both)
		_ = setModes(t.user, &outer)
	case keys || outer == t.rawModes(outer):
		agree(&inner, &outer, &t.both)
		_ = setModes(t.master, &inner)
		agree(&t.saved, &outer, &t.both) // the wish of a process that may outlive the program
	default:
		return
	}
	t.agreed = inner
}

// bothHave returns a bit for each mode in which the two terminals agree. If echoes is not set, whether
// they echo is none of these.
func bothHave(echoes bool) (mask unix.Termios) {
	mask.Oflag = ^mask.Oflag &^ changesText
	if echoes {
		mask.Lflag = echo
	}
	return mask
}

// agree gives to the modes of from for which mask has a bit.
func agree(to, from, mask *unix.Termios) {
	to.Oflag = to.Oflag&^mask.Oflag | from.Oflag&mask.Oflag
	to.Lflag = to.Lflag&^mask.Lflag | from.Lflag&mask.Lflag
}

// differ reports whether a and b differ in a mode for which mask has a bit.
func differ(a, b, mask *unix.Termios) bool {
	return (a.Oflag^b.Oflag)&mask.Oflag != 0 || (a.Lflag^b.Lflag)&mask.Lflag != 0
}

// rawModes returns the modes in which the terminal passes on every typed byte at once and unchanged,
// as cfmakeraw(3) does. Written text is processed as before, because other processes write to the
// terminal, too. Where that stops the echo, the terminal is in external mode.
func (t *Terminal) rawModes(m unix.Termios) unix.Termios {
	m.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	m.Lflag &^= (unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN) &^ t.both.Lflag
	if t.both.Lflag != 0 {
		m.Lflag |= external
	}
	m.Cflag &^= unix.CSIZE | unix.PARENB
	m.Cflag |= unix.CS8
	m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
	return m
}

// Modes are a terminal's modes before we changed them, and the raw modes that we set.
type Modes struct{ Before, Raw unix.Termios }

// Modes returns the modes with which the person's terminal can be restored. They are equal if it
// is not in raw mode and there is nothing to restore.
func (t *Terminal) Modes() Modes {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.raw {
		return Modes{}
	}
	return Modes{t.saved, t.rawModes(t.saved)}
}

// Restore restores the modes of the terminal fd, unless another process has changed them since.
// It is for a process that outlives the one that set them.
func (m Modes) Restore(fd int) {
	now, err := modes(fd)
	if err != nil || m.Raw == m.Before {
		return
	}
	both := bothHave(m.Raw.Lflag&external != 0)
	if agree(&now, &m.Raw, &both); now == m.Raw {
		_ = setModes(fd, &m.Before)
	}
}
