//go:build !linux

package exec

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

const fionread = 0x4004667f // FIONREAD of <sys/filio.h>: _IOR('f', 127, int)

// childAttr gives the program nothing: only Linux has a parent-death signal.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// becomeSubreaper does nothing: only Linux has subreapers. What the program leaves
// behind cannot be found elsewhere, and is taken for nothing.
func becomeSubreaper() bool { return true }

// WidenPipe does nothing: only Linux lets a pipe's size be set.
func WidenPipe(*os.File) {}

func widen(int) {}

// nameMonitor does nothing: only Linux has prctl(2).
func nameMonitor() {}

// defaultAction gives sig its usual effect, as far as Go does: SIGTSTP may have none.
func defaultAction(sig syscall.Signal) (restore func()) {
	signal.Reset(sig)
	return func() {}
}

// SelfPath returns a path by which this program can be read and started again.
func SelfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// dup makes to the same as from, for the programs that we start, too.
func dup(from, to int) error { return unix.Dup2(from, to) }

// waitChild waits for a child, and reaps it if it has ended.
func (s *supervisor) waitChild(status *unix.WaitStatus, options int) (int, error) {
	pid, err := unix.Wait4(-1, status, options, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.ended || pid == s.pid && !status.Stopped()
	return pid, err
}

// stillStopped cannot tell without reaping the child if it has ended.
func stillStopped(int) bool { return false }

// sizeLimits knows none.
func sizeLimits() (alone, together int) { return 0, 0 }
