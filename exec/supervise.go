package exec

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
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
	p        Process
	files    [3]*os.File // the program's descriptors
	streams  []*stream
	terminal terminal
	signals  chan os.Signal
	pid      int
	// leave is when to leave whatever is still unwritten, once we were asked to stop.
	leave time.Time
	ended chan unix.WaitStatus // closed without a status if that was lost
}

// newSupervisor makes the pipes.
func newSupervisor(p Process) (*supervisor, error) {
	s := &supervisor{p: p, files: [3]*os.File{p.Stdin}, ended: make(chan unix.WaitStatus, 1), terminal: p.Signals.terminal}
	for i, w := range []io.Writer{p.Stdout, p.Stderr} {
		if f, ok := w.(*os.File); ok {
			s.files[i+1] = f
			continue
		}
		if i == 1 && w == p.Stdout {
			s.files[2] = s.files[1]
			continue
		}
		st, err := newStream(w)
		if err != nil {
			s.closeStreams()
			return nil, err
		}
		s.files[i+1] = st.child
		s.streams = append(s.streams, st)
	}
	return s, nil
}

func (s *supervisor) closeStreams() {
	for _, st := range s.streams {
		_ = st.child.Close()
		st.close()
	}
}

// start starts the program and everything that attends to it.
func (s *supervisor) start(path string) (err error) {
	if s.signals, err = s.p.Signals.handOver(); err != nil {
		s.closeStreams()
		return err
	}
	attr := &syscall.ProcAttr{Env: s.p.Env, Sys: childAttr()}
	attr.Sys.Setpgid = s.terminal != sharedTerminal
	if s.terminal == ownTerminal {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err == nil {
			defer tty.Close() //nolint:errcheck // only asked for its foreground
			attr.Sys.Foreground, attr.Sys.Ctty = true, int(tty.Fd())
		}
	}
	for _, f := range s.files {
		if f == nil { // the caller has none, and so has the program
			attr.Files = append(attr.Files, ^uintptr(0))
			continue
		}
		attr.Files = append(attr.Files, f.Fd())
	}
	becomeSubreaper()
	started := make(chan error)
	go s.startAndReap(path, attr, started)
	if err := <-started; err != nil {
		s.closeStreams()
		return err
	}
	if s.terminal == ownTerminal {
		signal.Ignore(unix.SIGTTOU) // we are in the background now, and may still write
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
	defer close(s.ended)
	options := 0
	if s.terminal == ownTerminal {
		options = unix.WUNTRACED
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, options, nil)
		switch {
		case err == nil && status.Stopped():
			// Ctrl-Z where no shell could continue it has no effect without us, either.
			if pid == s.pid && status.StopSignal() == unix.SIGTSTP {
				_ = unix.Kill(-pid, unix.SIGCONT)
			}
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: somebody else reaped it, against Run's contract
			return
		case pid == s.pid:
			s.ended <- status
			return
		}
	}
}

// run forwards signals until the program has ended and its output is written.
func (s *supervisor) run(ctx context.Context) (Status, error) {
	status, known := s.wait(ctx)
	result := Status{Code: status.ExitStatus()}
	if status.Signaled() {
		result.Code = 128 + int(status.Signal())
		if s.terminal == sharedTerminal {
			result.TerminalSignal = status.Signal()
		}
	}
	result.Leaked, result.Abandoned = s.drain()
	for _, st := range s.streams {
		if err := st.error(); result.OutputErr == nil && !errors.Is(err, unix.EPIPE) {
			result.OutputErr = err
		}
	}
	if !known {
		return Status{}, errors.New("the program has ended, and another part of this process took its status")
	}
	return result, nil
}

// wait returns when the program has ended, with its status if that is known.
func (s *supervisor) wait(ctx context.Context) (unix.WaitStatus, bool) {
	var kill <-chan time.Time
	stop := func() {
		if kill == nil && s.p.Grace > 0 {
			kill = time.After(s.p.Grace)
			s.leave = time.Now().Add(s.p.Grace)
		}
	}
	done := ctx.Done()
	for {
		select {
		case status, known := <-s.ended:
			return status, known
		case sig := <-s.signals:
			if sig == unix.SIGTERM {
				stop()
			}
			s.forward(sig.(syscall.Signal)) //nolint:errcheck,forcetypeassert // os/signal sends nothing else
		case <-done:
			done = nil
			stop()
			s.forward(unix.SIGTERM)
		case <-kill:
			s.forward(unix.SIGKILL)
		}
	}
}

// forward sends sig to the program's group; or to the program alone if it shares
// ours, or has left its own.
func (s *supervisor) forward(sig syscall.Signal) {
	if sig == unix.SIGPIPE { // ours: nobody reads our output
		return
	}
	if s.terminal == sharedTerminal {
		switch sig {
		case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH: // it has it already
			return
		}
	} else if unix.Kill(-s.pid, sig) == nil {
		return
	}
	_ = unix.Kill(s.pid, sig)
}

// drain waits for the end of the program's output. What the program itself
// wrote is waited for however long it takes to write, unless a signal tells us
// to stop or has, a grace ago (abandoned); a pipe that another process keeps open
// is, only until it is quiet (leaked).
func (s *supervisor) drain() (leaked, abandoned bool) {
	for len(s.signals) > 0 { // they were for the program
		<-s.signals
	}
	owed := make([]int64, len(s.streams)) // before others write more
	for i, st := range s.streams {
		owed[i] = st.owed()
	}
	for i, st := range s.streams {
		var paid time.Time // when the program's own output was written
		for !st.ended(quiet / 10) {
			select {
			case sig := <-s.signals:
				abandoned = abandoned || slices.Contains(asksToStop, sig)
			default:
			}
			now := time.Now()
			written, last := st.progress()
			if written >= owed[i] && paid.IsZero() {
				paid = now
			}
			abandoned = abandoned || paid.IsZero() && !s.leave.IsZero() && now.After(s.leave)
			since := now.Sub(paid)
			gone := !paid.IsZero() && (since > quiet && now.Sub(last) > quiet || since > patience)
			leaked = leaked || gone
			if abandoned || gone {
				st.leave() // unless it is stuck in a write that nobody takes
				st.ended(quiet)
				break
			}
		}
	}
	return leaked, abandoned
}

// stream is one pipe from the program to a writer. Its goroutine waits for it in
// the kernel rather than in Go's poller: a chunk comes with one thread woken, and
// not by way of a second.
type stream struct {
	child *os.File // the program's end
	dst   io.Writer
	done  chan struct{}
	err   error // of dst, or of reading; valid once done

	mu      sync.Mutex // held while bytes are taken out of the pipe and counted
	pipe    int        // our end, which does not block; -1 once closed
	wake    int        // the end of another pipe, whose other end leave closes
	waker   int        // that; -1 once closed
	taken   int64
	written int64
	last    time.Time // of a write
}

func newStream(dst io.Writer) (*stream, error) {
	data, wake := [2]int{-1, -1}, [2]int{-1, -1}
	err := errors.Join(pipe(&data), pipe(&wake))
	if err == nil {
		err = unix.SetNonblock(data[0], true)
	}
	if err != nil {
		for _, fd := range []int{data[0], data[1], wake[0], wake[1]} {
			_ = unix.Close(fd) // of -1, which is none: an error
		}
		return nil, err
	}
	widen(data[0])
	child := os.NewFile(uintptr(data[1]), "pipe")
	return &stream{child: child, dst: dst, done: make(chan struct{}), pipe: data[0], wake: wake[0], waker: wake[1]}, nil
}

// pipe makes a pipe that programs do not inherit.
func pipe(fds *[2]int) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := syscall.Pipe(fds[:]); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return nil
}

// copy copies the pipe to the writer, to its end or to the writer's first error.
func (st *stream) copy() {
	defer close(st.done)
	_, err := io.Copy(st.dst, st)
	if !errors.Is(err, errLeft) {
		st.err = err
	}
	// At once, so that the program is told by a SIGPIPE when its output goes nowhere.
	st.close()
	if c, ok := st.dst.(io.Closer); ok {
		if err := c.Close(); st.err == nil {
			st.err = err
		}
	}
}

// Read reads from the pipe, and counts what it takes in the same step: no byte is
// ever neither in the pipe nor counted. What it took before has been written when
// it is called again.
func (st *stream) Read(buf []byte) (int, error) {
	st.mu.Lock()
	if st.written != st.taken {
		st.written, st.last = st.taken, time.Now()
	}
	st.mu.Unlock()
	for {
		n, err := st.take(buf)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			err = io.EOF
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			fds := []unix.PollFd{{Fd: int32(st.pipe), Events: unix.POLLIN}, {Fd: int32(st.wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
			if _, err = unix.Poll(fds, -1); err == nil || errors.Is(err, unix.EINTR) {
				continue
			}
		}
		return 0, err
	}
}

var errLeft = errors.New("left while it was open")

func (st *stream) take(buf []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.waker < 0 {
		return 0, errLeft
	}
	n, err := unix.Read(st.pipe, buf)
	st.taken += int64(max(n, 0))
	return n, err
}

// leave ends the stream, though others may still write to it.
func (st *stream) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.waker >= 0 {
		_ = unix.Close(st.waker)
		st.waker = -1
	}
}

// close closes our descriptors.
func (st *stream) close() {
	st.leave()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.pipe >= 0 {
		_, _ = unix.Close(st.pipe), unix.Close(st.wake)
		st.pipe = -1
	}
}

// owed returns how many bytes had been put into the pipe, ever.
func (st *stream) owed() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	waiting := 0
	if st.pipe >= 0 {
		waiting, _ = unix.IoctlGetInt(st.pipe, fionread)
	}
	return st.taken + int64(waiting)
}

// progress returns how many bytes were written to the destination, and when last.
func (st *stream) progress() (int64, time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.written, st.last
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
