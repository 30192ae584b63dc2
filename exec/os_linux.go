package exec

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fionread = unix.TIOCINQ

// childAttr gives the program its death if we are killed. The kernel's race, that we die before the child asks for it, is
// checked by package syscall.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// becomeSubreaper makes orphans below us our children, as they are if we are
// process 1, and reports whether they are.
func becomeSubreaper() bool {
	return unix.Getpid() == 1 || unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil
}

// pipeSize is how much a pipe holds at most without privileges: the default of
// /proc/sys/fs/pipe-max-size.
const pipeSize = 1 << 20

// WidenPipe lets f hold 1 MiB if it is a pipe: its two sides wake one another
// less often. If that is not allowed, or f is something else, nothing changes.
func WidenPipe(f *os.File) {
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { widen(int(fd)) })
	}
}

func widen(fd int) {
	if size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); err == nil && size < pipeSize {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeSize)
	}
}

// nameMonitor gives the monitor a name of its own in lists of processes.
func nameMonitor() {
	if name, err := unix.BytePtrFromString("inject-monitor"); err == nil {
		//nolint:gosec // prctl(2) takes a pointer
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
}

// defaultAction gives sig the kernel's default action, and returns what takes that back.
// Package os/signal cannot do that: its handler stays after signal.Reset, does nothing
// at SIGTSTP, and prints all goroutines at SIGQUIT.
func defaultAction(sig syscall.Signal) (restore func()) {
	const maskSize = 8
	// The kernel's struct sigaction. One of zeros is SIG_DFL without flags on every machine.
	var standard, before [4]uint64
	set := func(to, was *[4]uint64) bool {
		//nolint:gosec // rt_sigaction(2) takes pointers
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
			uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), maskSize, 0, 0)
		return errno == 0
	}
	if !set(&standard, &before) {
		return func() {}
	}
	return func() { set(&before, &standard) }
}

// SelfPath returns a path by which this program can be read and started again.
func SelfPath() string {
	const self = "/proc/self/exe"
	if unix.Access(self, unix.X_OK) == nil {
		return self
	}
	// There is no /proc. This is how we were started, if whoever did so said it.
	path, err := look(Process{Args: os.Args[:1], Env: os.Environ()})
	if err != nil {
		return self
	}
	return path
}

// dup makes to the same as from, for the programs that we start, too.
func dup(from, to int) error { return unix.Dup3(from, to, 0) }

// waitChild waits for a child, and reaps it if it has ended. From then on its number
// may be another process's, so nobody may be sending it a signal then.
func (s *supervisor) waitChild(status *unix.WaitStatus, options int) (int, error) {
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT|options, nil); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := unix.Wait4(-1, status, options|unix.WNOHANG, nil)
	s.ended = s.ended || pid == s.pid && !status.Stopped()
	return pid, err
}

// stillStopped reports whether a child that was stopped has neither been continued nor
// ended since.
func stillStopped(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WCONTINUED|unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0
}

// sizeLimits returns how many bytes an argument or variable may have for execve(2),
// and all of them together, as the kernel's fs/exec.c has it: MAX_ARG_STRLEN, and a
// quarter of the stack's limit, but not more than three quarters of 8 MiB nor less
// than ARG_MAX.
func sizeLimits() (alone, together int) {
	const argMax = 128 << 10
	together = 6 << 20
	var stack unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_STACK, &stack) == nil && stack.Cur/4 < uint64(together) {
		together = int(stack.Cur / 4) //nolint:gosec // it is less
	}
	return 32 * unix.Getpagesize(), max(together, argMax)
}
