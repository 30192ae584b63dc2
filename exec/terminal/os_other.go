//go:build !linux

package terminal

import "golang.org/x/sys/unix"

// changesText is the mode by which a terminal shows something else than what was
// written: spaces for a tab (OXTABS of <sys/termios.h>).
const changesText = 0x4

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TIOCGETA)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TIOCSETA, m) }

// drainAndSetModes sets them when what was written is shown.
func drainAndSetModes(fd int, m *unix.Termios) error {
	return unix.IoctlSetTermios(fd, unix.TIOCSETAW, m)
}

// BlockSignals does nothing: no thread's signals can be set from Go here.
func BlockSignals() {}
