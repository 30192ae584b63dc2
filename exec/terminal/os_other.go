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

// device returns the number of the terminal fd, as stat(2) gives it for a path of that terminal.
func device(fd int) (uint64, error) {
	var stat unix.Stat_t
	err := unix.Fstat(fd, &stat)
	return uint64(stat.Rdev), err
}

// BlockSignals does nothing: Go cannot set the signal mask of a thread here.
func BlockSignals() {}
