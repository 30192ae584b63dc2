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
	// quiet is how long a pipe that outlives the program must be silent until we stop reading
	// it. patience is when we stop reading one that is never silent.
	quiet    = 300 * time.Millisecond
	patience = 2 * time.Second
	// settling is how long after the start of the program we do what a program that ends at once
	// does not need: take the rest of the signals, and reserve threads before the program has
	// used up the user's processes.
	settling = time.Millisecond
)

// supervisor is one run of a program. The goroutine that starts the program waits for it and reaps
// our children. Another one, attend, handles everything else that happens meanwhile.
type supervisor struct {
	p        Process
	files    [3]*os.File // the program's descriptors
	streams  []*stream
	screen   *screen // nil if the program has no pseudo-terminal
	terminal terminalKind
	signals  chan syscall.Signal
	pid      int
	// stopping is when we forwarded a signal of job control that stops the program, in
	// nanoseconds since 1970. It is 0 once we have stopped, too, or were continued.
	stopping atomic.Int64
	// reaped is called for every child that has ended. It returns true when the run is over.
	reaped func(pid int, status unix.WaitStatus) bool
	// status is how the program ended. It is valid when the run is over, and nil if another part
	// of this process has reaped the program.
	status *unix.WaitStatus
	// asked is when we were asked to stop, and leave is when to give up output that is still
	// unwritten.
	asked, leave time.Time
	// others are the children that we had before the program, because the program that became us
	// by execve(2) started them. endAll spares them.
	others []int
	// reapsOrphans is set if the kernel gives us the orphans below us.
	reapsOrphans bool
	// noTerminal is why the program has no pseudo-terminal: see Status.NoTerminal.
	noTerminal error

	mu    sync.Mutex // held while a child is reaped, and while a signal is sent to one
	ended bool       // the program has been reaped, so another process may have its number
}

// newSupervisor makes the pipes and the pseudo-terminal.
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
	var shown io.Writer // if there is no pseudo-terminal: what the terminal is to show
	to := [2]*os.File{p.StdoutTo, p.StderrTo}
	for i, w := range []io.Writer{p.Stdout, p.Stderr} {
		f, isFile := w.(*os.File)
		switch onTerminal := isFile && p.Terminal != nil && tty.Is(f); {
		case onTerminal && s.screen != nil:
			s.files[i+1] = s.screen.stream.child
			continue
		case onTerminal:
			if shown == nil {
				shown = p.Terminal(f)
			}
			w = shown
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
		st.person = isFile
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

// start starts the program and its streams. The caller then calls run in the same goroutine,
// which stays locked to its thread: the kernel sends the parent-death signal when the thread that
// started the program ends.
func (s *supervisor) start(path string) (err error) {
	if s.signals, err = s.p.Signals.handOver(); err != nil {
		s.closeStreams()
		return err
	}

	attr := &syscall.ProcAttr{Env: s.p.Env, Sys: childAttr()}
	for _, f := range s.files {
		if f == nil { // closed for the program
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
			defer tty.Close() //nolint:errcheck // nothing was written to it
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
		signal.Ignore(unix.SIGTTOU) // we are in the background now, where a write could stop us
	}

	for _, st := range s.streams {
		if !st.terminal { // run closes the other end of a terminal when the program has ended
			_ = st.child.Close()
		}
		go st.copy()
	}
	return nil
}

// startAlone starts the program as our child.
func (s *supervisor) startAlone(path string, attr *syscall.ProcAttr) (err error) {
	if s.pid, err = syscall.ForkExec(path, s.p.Args, attr); err != nil { //nolint:gosec // the caller's program
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

// reap waits for children and reaps each, until s.reaped returns true. No other code reaps children
// while the program runs.
func (s *supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := s.waitChild(&status, unix.WUNTRACED)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: other code has reaped the program, against Run's contract
			return
		case pid == 0: // the child that was waited for has changed its state again
		case status.Stopped():
			if pid == s.pid {
				s.programStopped(status.StopSignal())
			}
		case s.reaped(pid, status):
			return
		}
	}
}

// programStopped is called when sig has stopped the program, if that is our child.
func (s *supervisor) programStopped(sig syscall.Signal) {
	switch {
	case s.terminal == ownTerminal && sig == unix.SIGTSTP:
		// No shell could continue the program, so Ctrl-Z has no effect, as without us.
		_ = unix.Kill(-s.pid, unix.SIGCONT)
	case s.terminal == sharedTerminal:
		// The shell waits for us. If the terminal has stopped the program, it has stopped us,
		// too, and when we are running again, so is the program.
		s.stopWithProgram()
	case time.Since(time.Unix(0, s.stopping.Swap(0))) < time.Second:
		// The sender of the signal may wait until we are stopped. As process 1 we never are.
		s.stopWithProgram()
	}
}

// stopWithProgram stops us if the program is still stopped after a moment. A SIGCONT that comes
// between this check and the stop would be lost. The moment is there so that a SIGCONT sent right
// after the stop comes before the check.
func (s *supervisor) stopWithProgram() {
	time.Sleep(50 * time.Millisecond)
	if stillStopped(s.pid) {
		_ = unix.Kill(unix.Getpid(), unix.SIGSTOP)
	}
}

// run waits until the program has ended and its output is written. Meanwhile attend runs.
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
		gone := errors.Is(err, unix.EPIPE) || st.terminal && errors.Is(err, unix.EIO) // no reader is left
		if result.OutputErr == nil && !gone {
			result.OutputErr = err
		}
	}
	return result, nil
}

// attend handles signals, deadlines and the person's terminal until over is closed.
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

// askedToStop notes that we were asked to stop. It returns a channel that fires when the program
// is to be killed, or nil if that is never or if we were asked before.
func (s *supervisor) askedToStop() (kill <-chan time.Time) {
	if !s.asked.IsZero() {
		return nil
	}
	s.asked = time.Now()
	if s.p.Grace == 0 {
		return nil
	}
	// The program keeps at least half of the grace, however large the reserve is.
	after := s.p.Grace - min(s.p.Reserve, s.p.Grace/2)
	s.leave = s.asked.Add(after)
	return time.After(after)
}

// noteJobControl notes for programStopped that sig stops or continues the program.
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

// forward sends sig to the program's group, or to the program alone if it is in our group or has
// left its own.
func (s *supervisor) forward(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended: // another process may have its number by now
		return
	case sig == unix.SIGPIPE: // from our own writing
		return
	case s.screen != nil && s.screen.takes(sig):
		return
	case s.terminal == sharedTerminal:
		switch sig {
		case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH: // the terminal has sent it to the program, too
			return
		}
	case unix.Kill(-s.pid, sig) == nil:
		return
	}
	_ = unix.Kill(s.pid, sig)
}

// askedLate notes that we were asked to stop after the program had ended.
func (s *supervisor) askedLate() {
	if s.asked.IsZero() {
		s.asked = time.Now()
	}
}

// drain waits for the end of the program's output. It waits for as long as it takes to write what
// the program itself wrote, but gives up (abandoned) when a signal asks us to stop, or at s.leave
// if one did before. For a pipe that another process keeps open, it waits only until that is
// quiet (leaked).
func (s *supervisor) drain() (leaked, abandoned bool) {
	for len(s.signals) > 0 { // they came for the program, so they do not abandon its output
		if slices.Contains(asksToStop, <-s.signals) {
			s.askedLate()
		}
	}
	owed := make([]int64, len(s.streams)) // written by the program; other processes may write more
	for i, st := range s.streams {
		owed[i] = st.owed()
	}
	for i, st := range s.streams {
		var paid time.Time // when we had written the program's own output
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
				st.leave() // has no effect on a stream that is stuck in a write
				st.ended(quiet)
				break
			}
		}
	}
	return leaked, abandoned
}
