package exec

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// letGo does what Process.LetGo says.
func letGo() {
	nothing(0)
	closeInherited()
	if controllingTerminal() == noTerminal {
		_ = os.Chdir("/")
	}
}

// nothing replaces fd by /dev/null. Without a /dev/null, fd stays what it is.
func nothing(fd int) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = dup(null, fd)
	_ = unix.Close(null)
}

// closeInherited closes the descriptors above 2 that a program inherits from us. These are the ones
// that we inherited: all that we open are close-on-exec.
func closeInherited() {
	for _, fd := range openDescriptors() {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// openDescriptors returns the descriptors that may be open.
func openDescriptors() (fds []int) {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil { // there is no /proc: try the usual limit of open files
		for fd := range 1024 {
			fds = append(fds, fd)
		}
		return fds
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}
