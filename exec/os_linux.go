package exec

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fionread = unix.TIOCINQ

// childAttr makes the kernel kill the program when we are killed. Package syscall handles the
// race in which we die before the child has asked for that.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// becomeSubreaper makes the kernel give us every orphan below us as a child, as it does for
// process 1 anyway. It reports whether we get them.
func becomeSubreaper() bool {
	return unix.Getpid() == 1 || unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == nil
}

// pipeSize is the largest capacity of a pipe that needs no privilege: the default of
// /proc/sys/fs/pipe-max-size.
const pipeSize = 1 << 20

// WidenPipe raises the capacity of f to 1 MiB if f is a pipe, so that its two sides wake each other
// less often. If that is not allowed, or f is no pipe, nothing changes.
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

// nameMonitor sets the name by which ps(1) and top(1) show the monitor.
func nameMonitor() {
	if name, err := unix.BytePtrFromString("inject-monitor"); err == nil {
		//nolint:gosec // prctl(2) takes a pointer
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
}

// action is the kernel's struct sigaction of one signal. Zeros mean SIG_DFL without flags on every
// machine, and the first word is the handler's address or SIG_IGN.
type action [4]uint64

// setAction sets the action of sig, unless to is nil, and returns the former one.
func setAction(sig syscall.Signal, to *action) (was action, ok bool) {
	const maskSize = 8
	//nolint:gosec // rt_sigaction(2) takes pointers
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&was)), maskSize, 0, 0)
	return was, errno == 0
}

// defaultAction gives sig the kernel's default action, and returns a function that restores the
// former action. Package os/signal cannot do that: after signal.Reset its handler stays, which
// does nothing at SIGTSTP and prints all goroutines at SIGQUIT.
func defaultAction(sig syscall.Signal) (restore func()) {
	before, ok := setAction(sig, &action{})
	if !ok {
		return func() {}
	}
	return func() { setAction(sig, &before) }
}

// ignored reports whether the kernel ignores sig for us. Package os/signal does not know it of the
// signals of job control.
func ignored(sig syscall.Signal) bool {
	const sigIgn = 1
	now, ok := setAction(sig, nil)
	return ok && now[0] == sigIgn
}

// leaderHasEnded reports whether the process that led our session has ended.
func leaderHasEnded() bool {
	session, err := unix.Getsid(0)
	if err != nil || session == 0 { // 0 is one of another PID namespace
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(session) + "/stat")
	if err != nil {
		return errors.Is(unix.Kill(session, 0), unix.ESRCH)
	}
	_, state, _ := bytes.Cut(stat, []byte(") ")) // see proc(5)
	return bytes.HasPrefix(state, []byte{'Z'})
}

// SelfPath returns a path at which this program can be read and started again.
func SelfPath() string {
	const self = "/proc/self/exe"
	if unix.Access(self, unix.X_OK) == nil {
		return self
	}
	// Without /proc, look up the name by which we were started.
	path, err := look(Process{Args: os.Args[:1], Env: os.Environ()})
	if err != nil {
		return self
	}
	return path
}

// dup makes the descriptor to a copy of from that programs inherit.
func dup(from, to int) error { return unix.Dup3(from, to, 0) }

// waitChild waits until a child changes its state, and reaps it if it has ended. From then on its
// number may be another process's. So it holds s.mu, which forward holds to send a signal.
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

// stillStopped reports whether a stopped child has neither been continued nor ended since.
func stillStopped(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WCONTINUED|unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo == 0
}

// sizeLimits returns the most bytes that execve(2) accepts for one argument or variable, and for
// all of them together. The rules are those of the kernel's fs/exec.c: MAX_ARG_STRLEN for one;
// for all a quarter of the stack's limit, but at most three quarters of 8 MiB and at least
// ARG_MAX.
func sizeLimits() (alone, together int) {
	const argMax = 128 << 10
	together = 6 << 20
	var stack unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_STACK, &stack) == nil && stack.Cur/4 < uint64(together) {
		together = int(stack.Cur / 4) //nolint:gosec // it is less
	}
	return 32 * unix.Getpagesize(), max(together, argMax)
}
