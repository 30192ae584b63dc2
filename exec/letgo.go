package exec

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// letGo gives up what the program has now: see Process.LetGo.
func letGo() {
	nothing(0)
	closeInherited()
	if controllingTerminal() == noTerminal {
		_ = os.Chdir("/")
	}
}

// nothing puts /dev/null in the place of fd, which stays what it is if there is none.
func nothing(fd int) {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = dup(null, fd)
	_ = unix.Close(null)
}

// closeInherited closes what programs that we start inherit, above 2. Whatever we open
// ourselves they do not.
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
	if err != nil { // there is no /proc: as many as programs have
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
