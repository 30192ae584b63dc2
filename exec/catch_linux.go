//go:build amd64 || arm64

package exec

import (
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Signals are caught by a handler of our own, in assembly (catch_linux_*.s). Package
// os/signal asks a thread of Go's runtime about each signal, and waits for its
// answer: for all of them that takes longer than everything else that we do before
// a program is started. It also merges real-time signals that come together, and
// keeps SIGPROF and the first real-time signal.
//
// The handler counts the signal, notes when it came and wakes whoever waits for one. It runs on the
// stack that the runtime gives each thread for signals, with all others blocked,
// and touches nothing of Go's but the variables below. A fault of our own it
// hands on to the runtime, which is how nil pointers become panics.
//
// What is in the system's table is what we have put there: where os/signal is asked
// about one of these signals meanwhile, it hears nothing.

// lastSignal is the last real-time signal. There may be as many in the kernel's
// queue as its limits say, and each is counted.
const lastSignal = syscall.Signal(64)

// What the handler works on.
var (
	received     [lastSignal + 1]uint32 // how many came that nobody has taken yet
	came         [lastSignal + 1]uint32 // when the last one came, as a count of all; 0 for never
	tickets      uint32                 //nolint:unused // that count; the handler's own
	bell         atomic.Uint32          // changes with each; a futex
	faultHandler uintptr                //nolint:unused // the runtime's; the handler reads it
	process      uint32                 //nolint:unused // our number; the handler reads it
	jobThread    uint32                 // which thread stops and continues are noted in; the handler reads it
)

// The handler's entries, for the kernel's table, and what it returns to. All are in
// assembly.
var onSignalAddr, onFaultAddr, onJobAddr, sigreturnAddr uintptr

// sigaction is the kernel's struct sigaction on amd64 and arm64, not the C library's.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr // amd64 only: arm64 has one of the kernel's
	mask     uint64
}

const (
	sigIgn     = 1
	saSiginfo  = 0x4
	saOnstack  = 0x08000000
	saRestart  = 0x10000000
	saRestorer = 0x04000000

	futexWait = 0 | 128 // FUTEX_WAIT and FUTEX_WAKE, FUTEX_PRIVATE_FLAG: uapi/linux/futex.h
	futexWake = 1 | 128
)

// action puts an action for sig into the system's table and returns what was there.
// With nil nothing is changed.
func action(sig syscall.Signal, what *sigaction) (was sigaction, ok bool) {
	const maskSize = 8
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(what)), uintptr(unsafe.Pointer(&was)), maskSize, 0, 0) //nolint:gosec // rt_sigaction(2) takes pointers
	return was, errno == 0
}

// isFault reports whether sig is one by which the kernel tells a program of its own
// mistakes. From anybody else it is a signal like others.
func isFault(sig syscall.Signal) bool {
	switch sig {
	case unix.SIGILL, unix.SIGTRAP, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS:
		return true
	}
	return false
}

// isJob reports whether sig stops or continues. Which of these comes last decides, and
// that can only be told where one thread alone has them all. The kernel prefers that
// thread, but while it blocks signals (it has just started a program) or has others to
// see to, another one has them first and hands them over: if that takes it longer than
// the time to the next signal, which is a millisecond on a machine with much to do, the
// order is lost.
func isJob(sig syscall.Signal) bool {
	switch sig {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGCONT:
		return true
	}
	return false
}

// catcher is the signals that are caught. There is one at a time.
type catcher struct {
	mu     sync.Mutex
	before [lastSignal + 1]*sigaction // of those that are caught
	once   sync.Once                  // for unblock
	done   atomic.Bool
}

// unblock lets this thread have those signals that we were started with as blocked:
// the others must keep them so, for the program inherits that.
func (c *catcher) unblock() {
	var blocked, ours unix.Sigset_t
	if unix.PthreadSigmask(unix.SIG_BLOCK, nil, &blocked) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for sig, was := range c.before {
		if was != nil {
			ours.Val[0] |= 1 << (sig - 1)
		}
	}
	if blocked.Val[0]&ours.Val[0] != 0 {
		runtime.LockOSThread() // it ends with the goroutine
		_ = unix.PthreadSigmask(unix.SIG_UNBLOCK, &ours, nil)
		jobThread = uint32(unix.Gettid()) //nolint:gosec // a pid; in the others they may be blocked
	}
}

// newCatcher returns a catcher of nothing yet.
func newCatcher() *catcher {
	clear(received[:])
	clear(came[:])
	jobThread = 0
	return &catcher{}
}

// take catches the signals, too; but for those that we were started with as ignored
// (nohup), which the program then ignores as well.
func (c *catcher) take(signals ...syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sig := range signals {
		a := sigaction{handler: onSignalAddr, flags: saSiginfo | saOnstack | saRestart, mask: ^uint64(0)}
		if sigreturnAddr != 0 {
			a.flags, a.restorer = a.flags|saRestorer, sigreturnAddr
		}
		was, ok := action(sig, nil)
		if !ok || was.handler == sigIgn && sig != unix.SIGPIPE {
			continue
		}
		switch {
		case isFault(sig):
			faultHandler = was.handler // the same for all
			a.handler = onFaultAddr
		case isJob(sig):
			process = uint32(unix.Getpid()) //nolint:gosec // a pid
			a.handler = onJobAddr
			if jobThread == 0 {
				jobThread = process // the main thread, which the kernel prefers
			}
		case sig == unix.SIGPIPE:
			// Else a write to a closed stdout or stderr ends us, which the runtime sees to
			// itself. To the kernel what we put into the table is what counts, and so a
			// program that we start has the usual effect again.
			signal.Ignore(sig)
		}
		if _, ok := action(sig, &a); ok {
			c.before[sig] = &was
		}
	}
}

// next returns a signal that has come, and waits for one; 0 once end is called.
// What came first comes first, as the last of its kind: whoever stops and continues
// has continued. It is for one goroutine.
func (c *catcher) next() syscall.Signal {
	c.once.Do(c.unblock)
	for {
		seen := bell.Load()
		if c.done.Load() {
			return 0
		}
		first, ticket := 0, uint32(0)
		for sig := range received {
			if atomic.LoadUint32(&received[sig]) == 0 {
				continue
			}
			if at := atomic.LoadUint32(&came[sig]); first == 0 || int32(at-ticket) < 0 { //nolint:gosec // they wrap
				first, ticket = sig, at
			}
		}
		if first != 0 {
			atomic.AddUint32(&received[first], ^uint32(0))
			return syscall.Signal(first)
		}
		_ = futex(&bell, futexWait, seen)
	}
}

// end gives the signals the effect that they had, and ends next.
func (c *catcher) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for sig, was := range c.before {
		if was != nil {
			_, _ = action(syscall.Signal(sig), was)
		}
	}
	c.done.Store(true)
	bell.Add(1)
	_ = futex(&bell, futexWake, 1)
}

// continued reports whether a SIGCONT has come after the last signal to stop, whoever
// has taken them since.
func (c *catcher) continued() bool {
	cont := atomic.LoadUint32(&came[unix.SIGCONT])
	for _, stop := range []syscall.Signal{unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} {
		if at := atomic.LoadUint32(&came[stop]); at != 0 && int32(at-cont) > 0 { //nolint:gosec // they wrap
			return false
		}
	}
	return cont != 0
}

// rest returns what has come and next has not returned, after it has ended. From then
// on the signals have their default effect, as they have for a program that is about
// to begin.
func (c *catcher) rest() (signals []syscall.Signal) {
	for sig, was := range c.before {
		if was != nil && !isFault(syscall.Signal(sig)) {
			_ = defaultAction(syscall.Signal(sig))
		}
	}
	// A thread that is in a handler takes the signal with it if we become the program
	// meanwhile: each is to have left it. (With cgo, which is only for tests, not.)
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0)
	for sig := range received {
		if atomic.SwapUint32(&received[sig], 0) > 0 {
			signals = append(signals, syscall.Signal(sig))
		}
	}
	return signals
}

// futex waits for word while it is n, or wakes n who do.
func futex(word *atomic.Uint32, op int, n uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), uintptr(op), uintptr(n), 0, 0, 0) //nolint:gosec // futex(2) takes pointers
	if errno != 0 {
		return errno
	}
	return nil
}

// defaultAction gives sig its usual effect, and returns what takes that back.
func defaultAction(sig syscall.Signal) (restore func()) {
	was, ok := action(sig, &sigaction{}) // SIG_DFL and no flags are 0
	return func() {
		if ok {
			_, _ = action(sig, &was)
		}
	}
}
