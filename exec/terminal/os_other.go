//go:build !linux

package terminal

import "golang.org/x/sys/unix"

// changesText is the mode in which a terminal changes written text: tabs become spaces (OXTABS of
// <sys/termios.h>).
const changesText = 0x4

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TIOCGETA)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TIOCSETA, m) }

// drainAndSetModes sets the modes once all written output has been shown.
func drainAndSetModes(fd int, m *unix.Termios) error {
	return unix.IoctlSetTermios(fd, unix.TIOCSETAW, m)
}

// BlockSignals does nothing: Go cannot set the signal mask of a thread here.
func BlockSignals() {}
