//go:build !linux

package exec

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

const fionread = 0x4004667f // FIONREAD of <sys/filio.h>: _IOR('f', 127, int)

// childAttr returns no attributes: only Linux has a parent-death signal.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// becomeSubreaper does nothing: only Linux has subreapers. Elsewhere processes that the program
// leaves behind cannot be found, and Process.EndAll does not count them as survivors.
func becomeSubreaper() bool { return true }

// WidenPipe does nothing: only Linux can change the capacity of a pipe.
func WidenPipe(*os.File) {}

func widen(int) {}

// nameMonitor does nothing: only Linux has prctl(2).
func nameMonitor() {}

// defaultAction makes Go's runtime give sig its usual effect, and returns a function that does
// nothing. SIGTSTP may have no effect then.
func defaultAction(sig syscall.Signal) (restore func()) {
	signal.Reset(sig)
	return func() {}
}

// ignored reports whether sig was ignored when we started.
func ignored(sig syscall.Signal) bool { return signal.Ignored(sig) }

// leaderHasEnded reports whether the process that led our session has ended.
func leaderHasEnded() bool {
	session, err := unix.Getsid(0)
	return err == nil && errors.Is(unix.Kill(session, 0), unix.ESRCH)
}

// SelfPath returns a path at which this program can be read and started again.
func SelfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// dup makes the descriptor to a copy of from that programs inherit.
func dup(from, to int) error { return unix.Dup2(from, to) }

// waitChild waits until a child changes its state, and reaps it if it has ended.
func (s *supervisor) waitChild(status *unix.WaitStatus, options int) (int, error) {
	pid, err := unix.Wait4(-1, status, options, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = s.ended || pid == s.pid && !status.Stopped()
	return pid, err
}

// stillStopped returns false: there is no way here to ask without reaping the child.
func stillStopped(int) bool { return false }

// sizeLimits returns 0: the limits are unknown here.
func sizeLimits() (alone, together int) { return 0, 0 }
