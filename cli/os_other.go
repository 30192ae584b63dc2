//go:build !linux

package cli

import "golang.org/x/sys/unix"

// maxLine is the longest line that a terminal keeps while no program reads it, in bytes
// (MAX_INPUT of macOS).
const maxLine = 1024

func modes(fd int) (unix.Termios, error) {
	m, err := unix.IoctlGetTermios(fd, unix.TIOCGETA)
	if err != nil {
		return unix.Termios{}, err
	}
	return *m, nil
}

func setModes(fd int, m *unix.Termios) error { return unix.IoctlSetTermios(fd, unix.TIOCSETA, m) }

// dropInput drops what is waiting to be read (TIOCFLUSH with FREAD of <sys/fcntl.h>).
func dropInput(fd int) { _ = unix.IoctlSetPointerInt(fd, unix.TIOCFLUSH, 1) }

// waiting returns how many bytes can be read.
func waiting(fd int) int {
	const fionread = 0x4004667f            // <sys/filio.h>
	n, _ := unix.IoctlGetInt(fd, fionread) // 0 after an error, which a read will report
	return n
}
