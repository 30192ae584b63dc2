package exec

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quiet is how long nothing may come from a pipe that outlives the program
	// before we take it that nothing more will; patience bounds the wait for one
	// that is never quiet.
	quiet    = 100 * time.Millisecond
	patience = 2 * time.Second
)

// supervisor is one run of a program.
type supervisor struct {
	p       Process
	files   [3]*os.File // the program's descriptors
	streams []*stream
	tty     *os.File // the terminal whose foreground group the program became
	signals chan os.Signal
	pid     int
	events  chan unix.WaitStatus
}

// newSupervisor makes the pipes.
func newSupervisor(p Process) (*supervisor, error) {
	s := &supervisor{p: p, files: [3]*os.File{p.Stdin}, events: make(chan unix.WaitStatus)}
	for i, w := range []io.Writer{p.Stdout, p.Stderr} {
		if f, ok := w.(*os.File); ok {
			s.files[i+1] = f
			continue
		}
		if i == 1 && w == p.Stdout {
			s.files[2] = s.files[1]
			continue
		}
		r, child, err := os.Pipe()
		if err != nil {
			s.closeStreams()
			return nil, err
		}
		s.files[i+1] = child
		s.streams = append(s.streams, &stream{r: r, child: child, dst: w, done: make(chan struct{})})
	}
	return s, nil
}

func (s *supervisor) closeStreams() {
	for _, st := range s.streams {
		_ = st.r.Close()
		_ = st.child.Close()
	}
}

// start starts the program and everything that attends to it.
func (s *supervisor) start(path string) error {
	// From here on no signal is lost: one that comes before the program is there
	// waits in the channel.
	s.signals = make(chan os.Signal, 1024)
	signal.Notify(s.signals, forwarded()...)
	attr := &syscall.ProcAttr{Env: s.p.Env, Sys: childAttr()}
	for i, f := range s.files {
		if f == nil { // a descriptor that is closed in us is in the program, too
			attr.Files = append(attr.Files, ^uintptr(0))
			continue
		}
		attr.Files = append(attr.Files, s.files[i].Fd())
	}
	if s.tty = foregroundTerminal(); s.tty != nil {
		attr.Sys.Foreground, attr.Sys.Ctty = true, int(s.tty.Fd())
	}
	becomeSubreaper()
	started := make(chan error)
	go s.startAndReap(path, attr, started)
	if err := <-started; err != nil {
		signal.Stop(s.signals)
		s.closeStreams()
		s.takeTerminalBack()
		return err
	}
	if s.tty != nil {
		// We are in the background now, and may still write and take it back.
		signal.Ignore(unix.SIGTTOU)
	}
	for _, st := range s.streams {
		_ = st.child.Close()
		go st.copy()
	}
	return nil
}

// startAndReap starts the program and is the one loop that waits for children.
// Its thread belongs to it alone and lives as long as the program, because the
// kernel sends the parent-death signal when the thread that forked ends.
func (s *supervisor) startAndReap(path string, attr *syscall.ProcAttr, started chan<- error) {
	runtime.LockOSThread()
	var err error
	s.pid, err = syscall.ForkExec(path, s.p.Args, attr) //nolint:gosec // it is what we are for
	started <- err
	if err != nil {
		return
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: somebody else reaped it, against Run's contract
			close(s.events)
			return
		case pid == s.pid:
			s.events <- status
			if !status.Stopped() {
				close(s.events)
				return
			}
		}
	}
}

// run forwards signals until the program has ended and its output is written.
func (s *supervisor) run(ctx context.Context) Status {
	defer signal.Stop(s.signals)
	status := s.wait(ctx)
	s.takeTerminalBack()
	result := Status{Code: status.ExitStatus()}
	if status.Signaled() {
		result.Code = 128 + int(status.Signal())
	}
	result.Leaked = !s.drain()
	for _, st := range s.streams {
		if err := st.error(); result.OutputErr == nil && !errors.Is(err, unix.EPIPE) {
			result.OutputErr = err
		}
	}
	return result
}

// wait returns when the program has ended.
func (s *supervisor) wait(ctx context.Context) unix.WaitStatus {
	var kill <-chan time.Time
	stop := func() {
		if kill == nil && s.p.Grace > 0 {
			kill = time.After(s.p.Grace)
		}
	}
	done := ctx.Done()
	for {
		select {
		case status := <-s.events:
			if !status.Stopped() {
				return status
			}
			s.stopWith()
		case sig := <-s.signals:
			if sig == unix.SIGTERM {
				stop()
			}
			s.forward(sig.(syscall.Signal)) //nolint:errcheck // os/signal sends nothing else
		case <-done:
			done = nil
			stop()
			s.forward(unix.SIGTERM)
		case <-kill:
			s.forward(unix.SIGKILL)
		}
	}
}

// forward sends sig to the program's group, or to the program alone if it has
// left its group.
func (s *supervisor) forward(sig syscall.Signal) {
	switch sig {
	case unix.SIGPIPE: // ours: nobody reads our output
		return
	case unix.SIGCONT:
		s.giveTerminal()
	}
	if unix.Kill(-s.pid, sig) != nil {
		_ = unix.Kill(s.pid, sig)
	}
}

// stopWith stops us when the program was stopped on a terminal, so that the
// shell that started us takes the terminal back and can continue us. Elsewhere
// nobody would.
func (s *supervisor) stopWith() {
	if s.tty == nil {
		return
	}
	s.setForeground(unix.Getpgrp())
	_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
}

func (s *supervisor) giveTerminal() {
	if s.tty == nil {
		return
	}
	if group, err := unix.IoctlGetInt(int(s.tty.Fd()), unix.TIOCGPGRP); err == nil && group == unix.Getpgrp() {
		s.setForeground(s.pid)
	}
}

func (s *supervisor) takeTerminalBack() {
	if s.tty == nil {
		return
	}
	signal.Ignore(unix.SIGTTOU)
	if group, err := unix.IoctlGetInt(int(s.tty.Fd()), unix.TIOCGPGRP); err == nil && group == s.pid {
		s.setForeground(unix.Getpgrp())
	}
	signal.Reset(unix.SIGTTOU)
	_ = s.tty.Close()
	s.tty = nil
}

func (s *supervisor) setForeground(group int) {
	_ = unix.IoctlSetPointerInt(int(s.tty.Fd()), unix.TIOCSPGRP, group)
}

// foregroundTerminal returns our controlling terminal if we are in its
// foreground group, else nil.
func foregroundTerminal() *os.File {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	if group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		_ = tty.Close()
		return nil
	}
	return tty
}

// forwarded returns the signals that we take to forward them. Not among them
// are those that say something about us: SIGCHLD, SIGURG (Go's own preemption)
// and those of the terminal that ask for it; and those that we were started
// with as ignored (nohup), which the program then ignores, too. SIGPIPE is taken
// so that it does not end us, and goes nowhere.
func forwarded() []os.Signal {
	var signals []os.Signal
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU:
			continue
		}
		if !signal.Ignored(sig) {
			signals = append(signals, sig)
		}
	}
	return signals
}

// drain waits for the end of the program's output. What the program itself
// wrote is waited for however long it takes to write, unless a signal tells us
// to stop; a pipe that another process keeps open only until it is quiet. It
// returns false if some pipe was left before its end.
func (s *supervisor) drain() bool {
	ended := true
	for _, st := range s.streams {
		owed := st.total.Load() + st.waiting()
		leave := time.Now().Add(patience)
		for !st.ended(quiet / 10) {
			select {
			case sig := <-s.signals:
				if sig == unix.SIGTERM || sig == unix.SIGINT || sig == unix.SIGHUP || sig == unix.SIGQUIT {
					owed, leave = 0, time.Time{}
				}
			default:
			}
			now := time.Now()
			if st.total.Load() >= owed && (now.After(leave) || !st.writing.Load() && now.UnixNano()-st.last.Load() > int64(quiet)) {
				ended = false
				// Wakes the reader, unless it is stuck in a write that nobody takes.
				_ = st.r.SetReadDeadline(now)
				st.ended(quiet)
				break
			}
		}
	}
	return ended
}

// stream is one pipe from the program to a writer.
type stream struct {
	r, child *os.File
	dst      io.Writer
	done     chan struct{}
	err      error // of dst; valid once done

	total   atomic.Int64 // bytes written to dst
	last    atomic.Int64 // when, in Unix nanoseconds
	writing atomic.Bool
}

const readSize = 64 << 10 // a whole pipe

func (st *stream) copy() {
	defer close(st.done)
	buf := make([]byte, readSize)
	for st.err == nil {
		n, err := st.r.Read(buf)
		if n > 0 {
			st.writing.Store(true)
			_, st.err = st.dst.Write(buf[:n])
			st.last.Store(time.Now().UnixNano())
			st.total.Add(int64(n))
			st.writing.Store(false)
		}
		if err != nil {
			break
		}
	}
	// At once, so that the program is told by a SIGPIPE when its output goes nowhere.
	_ = st.r.Close()
	if c, ok := st.dst.(io.Closer); ok {
		if err := c.Close(); st.err == nil {
			st.err = err
		}
	}
}

// waiting returns how many bytes are in the pipe.
func (st *stream) waiting() int64 {
	var n int
	raw, err := st.r.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), fionread) })
	}
	return int64(n)
}

// ended waits for at most d for the end of the stream.
func (st *stream) ended(d time.Duration) bool {
	select {
	case <-st.done:
		return true
	case <-time.After(d):
		return false
	}
}

// error returns why the stream ended early, nil while it has not.
func (st *stream) error() error {
	select {
	case <-st.done:
		return st.err
	default:
		return nil
	}
}
