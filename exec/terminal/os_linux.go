package terminal

import "golang.org/x/sys/unix"

// changesText are the modes in which a terminal changes written text: tabs become spaces, and
// letters upper case.
const changesText = unix.TABDLY | unix.OLCUC

// echo is the mode in which a terminal echoes typed text. In raw mode a terminal may have it all the
// same, because external, by which a program says that it does the work of the terminal's line
// discipline, has no echo. So the person's terminal can show whether the program's echoes.
const (
	echo     = unix.ECHO
	external = unix.EXTPROC
)

// echoCanStop reports whether a terminal in external mode does not echo. That of Linux does not, but
// that of gVisor does. It tries it on a new pseudo-terminal, which is then as before.
func echoCanStop(master, program int) bool {
	before, err := modes(program)
	if err != nil {
		return false
	}
	defer setModes(program, &before) //nolint:errcheck // modes that it had before
	trial := before
	trial.Lflag = trial.Lflag&^unix.ICANON | echo | external
	trial.Cc[unix.VMIN], trial.Cc[unix.VTIME] = 1, 0
	return setModes(program, &trial) == nil && !echoesKey(master, program)
}

// echoesKey types a key on a terminal in raw mode, and reports whether the terminal has echoed it. A
// key can be read once it has been echoed.
func echoesKey(master, program int) bool {
	var key [1]byte
	if _, err := unix.Write(master, []byte{'x'}); err != nil {
		return true
	}
	if n, err := unix.Read(program, key[:]); err != nil || n != 1 {
		return true
	}
	n, err := unix.Read(master, key[:]) // which does not block
	return n > 0 || !again(err)
}

// disabled stands for a key that does not exist, in a terminal's modes.
const disabled = 0

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TCSETS, m) }

// drainAndSetModes sets the modes once all written output has been shown.
func drainAndSetModes(fd int, m *unix.Termios) error {
	return unix.IoctlSetTermios(fd, unix.TCSETSW, m)
}

// device returns the number of the terminal fd, as stat(2) gives it for a path of that terminal.
// Unlike fstat(2), it gives the number of the terminal itself if fd was opened as /dev/tty.
func device(fd int) (uint64, error) {
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGDEV)
	return uint64(n), err
}

// BlockSignals blocks SIGTTIN and SIGTTOU in the calling thread, to which the caller must have
// locked its goroutine. The kernel then does not stop us when this thread uses a terminal in the
// background: reads fail, and everything else works.
func BlockSignals() {
	var set unix.Sigset_t
	set.Val[0] = 1<<(unix.SIGTTIN-1) | 1<<(unix.SIGTTOU-1)
	_ = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}
