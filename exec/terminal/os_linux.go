package terminal

import "golang.org/x/sys/unix"

// changesText are the modes by which a terminal shows something else than what was
// written: spaces for a tab, large letters.
const changesText = unix.TABDLY | unix.OLCUC

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TCSETS, m) }

// drainAndSetModes sets them when what was written is shown.
func drainAndSetModes(fd int, m *unix.Termios) error {
	return unix.IoctlSetTermios(fd, unix.TCSETSW, m)
}

// BlockSignals keeps the calling thread, to which the caller is locked, from being
// stopped for using a terminal in the background: reading fails, all else works.
func BlockSignals() {
	var set unix.Sigset_t
	set.Val[0] = 1<<(unix.SIGTTIN-1) | 1<<(unix.SIGTTOU-1)
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}
