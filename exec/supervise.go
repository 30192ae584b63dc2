package exec

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"inject/internal/tty"
)

const (
	// quiet is how long nothing may come from a pipe that outlives the program
	// before we take it that nothing more will; patience bounds the wait for one
	// that is never quiet.
	quiet    = 300 * time.Millisecond
	patience = 2 * time.Second
	// settling is when a program has lived for long enough that it may have used up the
	// processes that it is allowed to have before it ends. Threads count, and when Go's
	// runtime cannot have another one it ends the process, and the program with it; so
	// it then gets all that it may come to need.
	settling = time.Millisecond
)

// supervisor is one run of a program. The goroutine that has started the program
// waits for it, and reaps what becomes ours; another one attends to everything
// else that happens meanwhile.
type supervisor struct {
	p        Process
	files    [3]*os.File // the program's descriptors
	streams  []*stream
	screen   *screen // nil without a terminal of the program's own
	terminal terminalKind
	signals  chan syscall.Signal
	pid      int
	// stopping is when we were asked to stop and go on later, as the program was then, in
	// nanoseconds; 0 if that is done.
	stopping atomic.Int64
	// reaped is told of every child that has ended, and returns whether that is all.
	reaped func(pid int, status unix.WaitStatus) bool
	// status is the program's. It is valid when all have been reaped, and nil if it was lost.
	status *unix.WaitStatus
	// asked is when we were asked to stop, and leave when to leave whatever is still
	// unwritten then.
	asked, leave time.Time
	// others are our children from before the program, as of what has become us.
	others []int
	// reapsOrphans is set if what loses its parent below us becomes our child.
	reapsOrphans bool
	// noTerminal is why the program has none of its own.
	noTerminal error

	mu    sync.Mutex // held while a child is reaped, and while one is sent a signal
	ended bool       // the program has been reaped, and its number may be another's
}

// newSupervisor makes the pipes and the terminal.
func newSupervisor(p Process) (*supervisor, error) {
	s := &supervisor{p: p, files: [3]*os.File{p.Stdin}, terminal: p.Signals.terminal}
	if p.Terminal != nil {
		s.screen, s.noTerminal = newScreen(p)
	}
	if s.screen != nil {
		s.terminal = screenTerminal
		s.streams = append(s.streams, s.screen.stream)
		if tty.Is(p.Stdin) {
			s.files[0] = s.screen.stream.child
		}
	}
	var piped [2]io.Writer
	to := [2]*os.File{p.StdoutTo, p.StderrTo}
	for i, w := range []io.Writer{p.Stdout, p.Stderr} {
		f, isFile := w.(*os.File)
		switch onTerminal := isFile && p.Terminal != nil && tty.Is(f); {
		case onTerminal && s.screen != nil:
			s.files[i+1] = s.screen.stream.child
			continue
		case onTerminal:
			w = p.Terminal
		case isFile:
			s.files[i+1] = f
			continue
		}
		if piped[i] = w; i == 1 && w == piped[0] {
			s.files[2] = s.files[1]
			continue
		}
		st, err := newPipe(w, to[i])
		if err != nil {
			s.closeStreams()
			return nil, err
		}
		st.lastUse = i == 0 && p.Stdout != p.Stderr
		s.files[i+1] = st.child
		s.streams = append(s.streams, st)
	}
	return s, nil
}

// closeStreams undoes newSupervisor.
func (s *supervisor) closeStreams() {
	for _, st := range s.streams {
		_ = st.child.Close()
		st.close()
	}
	s.screen.close()
}

// start starts the program and its streams. The caller goes on to run, which is
// when the program's end is waited for, on the thread that has started it: when that
// one ends the kernel sends the parent-death signal.
func (s *supervisor) start(path string) (err error) {
	if s.signals, err = s.p.Signals.handOver(); err != nil {
		s.closeStreams()
		return err
	}
	attr := &syscall.ProcAttr{Env: s.p.Env, Sys: childAttr()}
	for _, f := range s.files {
		if f == nil { // the caller has none, and so has the program
			attr.Files = append(attr.Files, ^uintptr(0))
			continue
		}
		attr.Files = append(attr.Files, f.Fd())
	}
	s.reapsOrphans = becomeSubreaper()
	if s.p.EndAll {
		s.others, _ = descendants(nil)
	}
	runtime.LockOSThread()
	switch s.terminal {
	case screenTerminal:
		err = s.startOnScreen(path, attr)
	case ownTerminal:
		tty, err2 := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err2 == nil {
			defer tty.Close() //nolint:errcheck // only asked for its foreground
			attr.Sys.Foreground, attr.Sys.Ctty = true, int(tty.Fd())
		}
		fallthrough
	default:
		attr.Sys.Setpgid = s.terminal != sharedTerminal
		err = s.startAlone(path, attr)
	}
	if err != nil {
		runtime.UnlockOSThread()
		s.closeStreams()
		return err
	}
	if s.terminal == ownTerminal {
		signal.Ignore(unix.SIGTTOU) // we are in the background now, and may still write
	}
	for _, st := range s.streams {
		if !st.terminal { // its other end is ours until the program ends, see run
			_ = st.child.Close()
		}
		go st.copy()
	}
	return nil
}

// startAlone starts the program as our child.
func (s *supervisor) startAlone(path string, attr *syscall.ProcAttr) (err error) {
	if s.pid, err = syscall.ForkExec(path, s.p.Args, attr); err != nil { //nolint:gosec // it is what we are for
		return err
	}
	s.reaped = func(pid int, status unix.WaitStatus) bool {
		if pid == s.pid {
			s.status = &status
		}
		return pid == s.pid
	}
	return nil
}

// reap waits for children and reaps each, in the one place where that is done,
// until s.reaped says that it was the last that we wait for.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := s.waitChild(&status, unix.WUNTRACED)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: somebody else reaped it, against Run's contract
			return
		case pid == 0: // it was another's
		case status.Stopped():
			if pid == s.pid {
				s.programStopped(status.StopSignal())
			}
		case s.reaped(pid, status):
			return
		}
	}
}

// programStopped does what is to be done when sig has stopped the program, which is
// our child.
func (s *supervisor) programStopped(sig syscall.Signal) {
	switch {
	case s.terminal == ownTerminal && sig == unix.SIGTSTP:
		// Ctrl-Z where no shell could continue it has no effect without us, either.
		_ = unix.Kill(-s.pid, unix.SIGCONT)
	case s.terminal == sharedTerminal:
		// The shell waits for us. If it was the terminal that has stopped the program, it
		// has stopped us, too, and whoever has continued us has continued the program.
		s.stopWithProgram()
	case time.Since(time.Unix(0, s.stopping.Swap(0))) < time.Second:
		// Whoever has asked for it may wait until we are. As process 1 we are not.
		s.stopWithProgram()
	}
}

// stopWithProgram stops us if the program still is after a moment, and nobody has
// continued us. A SIGCONT just between that look and the stop would be lost; who sends
// both at once has sent it by then.
func (s *supervisor) stopWithProgram() {
	time.Sleep(50 * time.Millisecond)
	if stillStopped(s.pid) {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
}

// run waits until the program has ended and its output is written, and attends to
// signals meanwhile.
func (s *supervisor) run(ctx context.Context) (Status, error) {
	over, attended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(attended)
		s.attend(ctx, over)
	}()
	s.reap()
	runtime.UnlockOSThread()
	close(over)
	<-attended
	if s.status == nil {
		s.drain()
		s.screen.close()
		return Status{}, errors.New("the program has ended, and another part of this process took its status")
	}
	result := Status{Code: s.status.ExitStatus(), NoTerminal: s.noTerminal}
	if s.status.Signaled() {
		result.Code = 128 + int(s.status.Signal())
		if s.p.Signals.terminal == sharedTerminal {
			result.TerminalSignal = s.status.Signal()
		}
	}
	s.screen.programEnded()
	result.Leaked, result.Abandoned = s.drain()
	s.screen.close()
	if s.p.EndAll {
		result.Survived = !endAll(s.others, !s.asked.IsZero()) || !s.reapsOrphans
	}
	result.Asked = s.asked
	for _, st := range s.streams {
		err := st.error()
		gone := errors.Is(err, unix.EPIPE) || st.terminal && errors.Is(err, unix.EIO) // nobody is there to read it
		if result.OutputErr == nil && !gone {
			result.OutputErr = err
		}
	}
	return result, nil
}

// attend does what there is to do until over is closed.
func (s *supervisor) attend(ctx context.Context, over <-chan struct{}) {
	var kill <-chan time.Time
	done := ctx.Done()
	stopped, hungUp, gone := s.screen.events()
	settled := time.After(settling)
	for {
		select {
		case <-over:
			return
		case sig := <-s.signals:
			if sig == unix.SIGTERM {
				kill = cmp.Or(kill, s.askedToStop())
			}
			s.noteJobControl(sig)
			s.forward(sig)
		case <-done:
			done = nil
			kill = cmp.Or(kill, s.askedToStop())
			s.forward(unix.SIGTERM)
		case <-kill:
			s.forward(unix.SIGKILL)
		case sig := <-stopped:
			s.suspend(sig)
		case <-hungUp:
			hungUp = nil
			s.screen.hangUp()
		case <-gone:
			gone = nil
			s.screen.hangUp()
		case <-settled:
			settled = nil
			reserveThreads()
			s.p.Signals.takeOthers()
		}
	}
}

// askedToStop notes that we were asked to stop, and returns when to kill the program: nil for
// never, or if we were asked before.
func (s *supervisor) askedToStop() (kill <-chan time.Time) {
	if !s.asked.IsZero() {
		return nil
	}
	s.asked = time.Now()
	if s.p.Grace == 0 {
		return nil
	}
	// Of a reserve there is something left for the program.
	after := s.p.Grace - min(s.p.Reserve, s.p.Grace/2)
	s.leave = s.asked.Add(after)
	return time.After(after)
}

// noteJobControl notes a signal that stops the program or continues it: see programStopped.
func (s *supervisor) noteJobControl(sig syscall.Signal) {
	switch sig {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		if s.terminal == noTerminal {
			s.stopping.Store(time.Now().UnixNano())
		}
	case unix.SIGCONT:
		s.stopping.Store(0)
	}
}

// forward sends sig to the program's group; or to the program alone if it shares
// ours, or has left its own.
func (s *supervisor) forward(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended: // its number may be another's by now
		return
	case sig == unix.SIGPIPE: // ours: nobody reads our output
		return
	case s.screen != nil && s.screen.takes(sig):
		return
	case s.terminal == sharedTerminal:
		switch sig {
		case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH: // it has it already
			return
		}
	case unix.Kill(-s.pid, sig) == nil:
		return
	}
	_ = unix.Kill(s.pid, sig)
}

// askedLate notes that we were asked to stop when the program had ended.
func (s *supervisor) askedLate() {
	if s.asked.IsZero() {
		s.asked = time.Now()
	}
}

// drain waits for the end of the program's output. What the program itself
// wrote is waited for however long it takes to write, unless a signal tells us
// to stop or has, a grace ago (abandoned); a pipe that another process keeps open
// is, only until it is quiet (leaked).
func (s *supervisor) drain() (leaked, abandoned bool) {
	for len(s.signals) > 0 { // they were for the program
		if slices.Contains(asksToStop, <-s.signals) {
			s.askedLate()
		}
	}
	owed := make([]int64, len(s.streams)) // before others write more
	for i, st := range s.streams {
		owed[i] = st.owed()
	}
	for i, st := range s.streams {
		var paid time.Time // when the program's own output was written
		for !st.ended(10 * time.Millisecond) {
			select {
			case sig := <-s.signals:
				if slices.Contains(asksToStop, sig) {
					abandoned = true
					s.askedLate()
				}
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
