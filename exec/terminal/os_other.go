//go:build !linux

package terminal

import "golang.org/x/sys/unix"

// changesText is the mode in which a terminal changes written text: tabs become spaces (OXTABS of
// <sys/termios.h>).
const changesText = 0x4

// On Linux these are modes by which the person's terminal shows whether the program's echoes. They
// are not used here, because nothing has been tried on a terminal of this system.
const (
	echo     = unix.ECHO
	external = unix.EXTPROC
)

// echoCanStop returns false: it is not known of this system.
func echoCanStop(int, int) bool { return false }

// disabled stands for a key that does not exist, in a terminal's modes.
const disabled = 0xff

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

// typedAhead are keys that were typed before the person's terminal was in raw mode. Here they stay in
// the terminal, and the relay reads them.
type typedAhead struct{}

func (t *Terminal) takeLines() *typedAhead { return nil }

func (t *Terminal) passOn(*typedAhead) {}
