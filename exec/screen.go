package exec

import (
	"cmp"
	"errors"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"inject/exec/terminal"
	"inject/internal/tty"
)

// screen is the program's pseudo-terminal, which stands in for the person's terminal.
type screen struct {
	tty    *terminal.Terminal
	stream *stream
	shared bool // a shell uses the person's terminal, too, and may stop us
	// leader is our side of the monitor, which exists if shared is set. Without a monitor the
	// program leads its session, and the kernel does not let its terminal stop it.
	leader *leader
	// orphan is set if the shell that had started us has ended, and the terminal with it or soon. The
	// program then has no controlling terminal, or it would get a SIGHUP that we do not get.
	orphan bool
	// wants is set if the program gets the person's terminal whenever we have it. In a pipeline
	// it gets the terminal only when it uses it, since another part may be a pager. If stdin is
	// something else, the same holds, so that keys typed ahead go to the shell.
	wants bool
	// told counts, for each signal, how often interruptJob has sent it to our job, which
	// includes us. takes does not forward these.
	told [lastSignal + 1]atomic.Int32
}

// newScreen returns a screen that stands in for the terminal that the output goes to.
func newScreen(p Process) (*screen, error) {
	user, _ := p.Stdout.(*os.File)
	if !tty.Is(user) {
		user, _ = p.Stderr.(*os.File)
	}
	if !tty.Is(user) {
		return nil, errors.New("neither output is a terminal")
	}
	sc := &screen{shared: p.Signals.terminal == sharedTerminal}
	own, err := terminal.New(user, sc.interruptJob)
	if err != nil {
		return nil, err
	}
	sc.tty = own
	fd, err := own.Output()
	if err == nil {
		sc.stream, err = newStream(p.Terminal(own), own.Program(), fd)
	}
	if err != nil {
		own.Close()
		return nil, err
	}
	sc.stream.terminal = true
	switch p.Signals.terminal {
	case ownTerminal: // no other process would read it
		sc.wants = true
	case noTerminal: // the terminal is another session's, but stdin may be read, as without us
		sc.orphan = leaderHasEnded()
		sc.wants = tty.Is(p.Stdin) && !sc.orphan
	case sharedTerminal:
		sc.wants = tty.Is(p.Stdin) && !inPipeline()
	}
	return sc, nil
}

// inPipeline reports whether a shell has started us as a part of a pipeline.
func inPipeline() bool {
	for fd := range 3 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
			return true
		}
	}
	return false
}

// startOnScreen starts the program on its pseudo-terminal.
func (s *supervisor) startOnScreen(path string, attr *syscall.ProcAttr) error {
	sc := s.screen
	if sc.wants { // a part of a pipeline may share the person's terminal with others, as without us
		s.p.Env = sc.tty.Rename(s.p.Env)
		attr.Env = s.p.Env
	}
	foreground := sc.wants && sc.tty.Foreground() && sc.tty.Attach() == nil
	if sc.shared {
		return s.startMonitored(command{path, s.p.Args, s.p.Env, foreground}, attr)
	}
	attr.Sys.Setsid, attr.Sys.Setctty, attr.Sys.Ctty = true, !sc.orphan, sc.descriptor(s.files)
	if err := s.startAlone(path, attr); err != nil {
		return err
	}
	sc.tty.SetGroup(s.pid)
	return nil
}

// startMonitored starts the program by way of a monitor.
func (s *supervisor) startMonitored(c command, attr *syscall.ProcAttr) error {
	l, err := s.startMonitor(attr)
	if err != nil {
		return &monitorError{err}
	}
	go l.listen()
	if err = c.write(l.conn); err == nil {
		err = <-l.first
	}
	if err != nil {
		_ = l.conn.Close()
		s.reap()
		return err
	}
	// The program has a session of its own, so signals of job control must be forwarded.
	take(s.p.Signals.notified, unix.SIGCONT)
	if !ignored(unix.SIGTSTP) {
		take(s.p.Signals.notified, unix.SIGTSTP)
	}
	sc := s.screen
	sc.leader, s.pid = l, int(l.program.Load())
	sc.tty.SetGroup(s.pid)
	l.tellModes(sc.tty.Modes())
	return nil
}

// startMonitor starts a monitor that has the program's descriptors.
func (s *supervisor) startMonitor(attr *syscall.ProcAttr) (*leader, error) {
	l, theirs, err := newLeader()
	if err != nil {
		return nil, err
	}
	defer unix.Close(theirs) //nolint:errcheck // only a copy: the end of the monitor's shows that it has ended
	user, err := unix.FcntlInt(uintptr(s.screen.tty.User()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	defer unix.Close(user) //nolint:errcheck // the monitor has its own
	// The monitor inherits both under the same numbers. These are free in our process, so they
	// take the place of no descriptor that the program is to inherit.
	if err := errors.Join(inherit(theirs), inherit(user)); err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	// The monitor gets no parent-death signal: when the socket ends, it restores the terminal
	// and kills the program.
	attr.Env, attr.Sys = nil, &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: s.screen.descriptor(s.files)}
	args := []string{monitorName, strconv.Itoa(theirs), strconv.Itoa(user)}
	monitor, err := syscall.ForkExec(SelfPath(), args, attr) //nolint:gosec // this program
	if err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	monitorEnded := false
	s.reaped = func(pid int, status unix.WaitStatus) bool {
		switch pid {
		case monitor:
			<-l.done
			monitorEnded = true
			s.status = cmp.Or(l.status, s.status)
			s.mu.Lock()
			s.ended = true
			s.mu.Unlock()
		case int(l.program.Load()): // the monitor was killed, so the kernel killed the program
			s.status = &status
		}
		return monitorEnded && (s.status != nil || l.program.Load() == 0)
	}
	return l, nil
}

// descriptor returns the first of the program's descriptors that is its terminal.
func (sc *screen) descriptor(files [3]*os.File) int { return slices.Index(files[:], sc.stream.child) }

// events returns the channels that attend waits for: stopped receives the signal that stopped the
// program; hungUp and gone are closed when the person's terminal is gone.
func (sc *screen) events() (stopped <-chan syscall.Signal, hungUp, gone <-chan struct{}) {
	if sc == nil {
		return nil, nil, nil
	}
	if sc.leader != nil {
		stopped = sc.leader.stopped
	}
	return stopped, sc.tty.HungUp(), sc.stream.done
}

// takes reports whether it has handled sig, so that it is not forwarded.
func (sc *screen) takes(sig syscall.Signal) bool {
	switch {
	case sig == unix.SIGWINCH:
		return sc.tty.Resize() // the kernel sends it to the program
	case sig == unix.SIGCONT && sc.leader != nil:
		sc.resume()
		return true
	case sc.told[sig].Load() > 0: // the program has it from its pseudo-terminal
		sc.told[sig].Add(-1)
		return true
	}
	return false
}

// resume continues the program, in the foreground or background as we are, and reports whether it
// is in the foreground.
func (sc *screen) resume() bool {
	if sc.wants && sc.tty.Foreground() && sc.tty.Attach() == nil {
		sc.leader.tellModes(sc.tty.Modes())
		sc.leader.tell(msgForeground)
		return true
	}
	sc.detach()
	sc.leader.tell(msgBackground)
	return false
}

func (sc *screen) detach() {
	sc.tty.Detach()
	sc.leader.tellModes(sc.tty.Modes())
}

// suspend stops our job, and us with it, by the signal that stopped the program, as the terminal
// would have done without us. If the program was stopped for using the terminal and we have that,
// it gets the terminal instead.
func (s *supervisor) suspend(sig syscall.Signal) {
	sc := s.screen
	use := sig == unix.SIGTTIN || sig == unix.SIGTTOU // it has used the terminal
	if use {
		sc.wants = true
		if sc.tty.Foreground() {
			if !sc.resume() {
				time.Sleep(50 * time.Millisecond) // another inject has the terminal: the program tries again
			}
			return
		}
	}
	sc.detach()
	stop := sig
	if sig == unix.SIGSTOP { // the shell could not tell it from a SIGSTOP for us alone
		stop = unix.SIGTSTP
	}
	continued := false
	if !ignored(stop) { // else no shell expects us to stop, and bash waits for what it substitutes
		restore := defaultAction(stop)
		_ = unix.Kill(0, stop)
		continued = s.awaitContinue()
		restore()
	}
	switch {
	case continued:
		sc.resume()
	case use: // we cannot be stopped to wait for the terminal, so a read of it finds the end
		sc.leader.tell(msgForeground)
		if sig == unix.SIGTTIN {
			sc.tty.End()
		}
	case sig != unix.SIGSTOP: // without us the kernel would not have stopped the program
		sc.resume()
	}
}

// awaitContinue returns true when we were stopped and have been continued. It returns false if we
// were not stopped within a moment: the kernel does not stop a job whose shell is gone.
func (s *supervisor) awaitContinue() bool {
	// Timers run on while we are stopped. When the first ends, the SIGCONT that has continued us
	// may not have reached us yet, so there is a second one.
	for _, d := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond} {
		timeout := time.After(d)
		for waiting := true; waiting; {
			select {
			case sig := <-s.signals:
				if sig == unix.SIGCONT {
					return true
				}
				s.forward(sig)
			case <-timeout:
				waiting = false
			}
		}
	}
	return false
}

// hangUp hangs up the program's pseudo-terminal, because the person's terminal is gone.
func (sc *screen) hangUp() {
	sc.stream.leave()
	_ = sc.stream.child.Close()
	sc.tty.Close()
}

// programEnded closes our copy of the program's end, so that reading its output comes to an end.
func (sc *screen) programEnded() {
	if sc != nil {
		_ = sc.stream.child.Close()
	}
}

// interruptJob sends a signal that a person has typed to our whole job, as the terminal would
// have done without us. So a script that runs us gets it, too.
func (sc *screen) interruptJob(sig unix.Signal) {
	if sc.shared && !signal.Ignored(sig) {
		sc.told[sig].Add(1)
		_ = unix.Kill(0, sig)
	}
}

// close restores the person's terminal and ends the pseudo-terminal. It may be called twice, and
// on a nil screen.
func (sc *screen) close() {
	if sc != nil {
		sc.tty.Close()
		if sc.leader != nil {
			_ = sc.leader.conn.Close()
		}
	}
}
