package cli

import "golang.org/x/sys/unix"

// maxLine is the longest line that a terminal keeps while no program reads it, in bytes. It drops
// the rest of a longer one (N_TTY_BUF_SIZE in the kernel's drivers/tty/n_tty.c).
const maxLine = 4095

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TCSETS, m) }

// dropInput drops what is waiting to be read.
func dropInput(fd int) { _ = unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) }

// waiting returns how many bytes can be read.
func waiting(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ) // 0 after an error, which a read will report
	return n
}
