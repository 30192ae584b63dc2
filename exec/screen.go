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

// screen is a terminal of the program's own, which stands in for a person's.
type screen struct {
	tty    *terminal.Terminal
	stream *stream
	shared bool // with a shell, which may stop us: there is a leader then
	// leader is nil where nobody could continue us: the program leads its session
	// itself then, and the kernel lets nothing stop it.
	leader *leader
	// wants is set when the program is to have the person's terminal as soon as we do.
	// A part of a pipeline is not, until it uses it: another may be a pager. What has
	// another stdin is not, either, so that what is typed ahead is the shell's.
	wants bool
	// told counts the signals that we have sent to our job, and so to us, by number.
	told [lastSignal + 1]atomic.Int32
}

// newScreen returns a screen on the terminal that the program's output goes to.
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
		sc.stream, err = newStream(p.Terminal, own.Program(), fd)
	}
	if err != nil {
		own.Close()
		return nil, err
	}
	sc.stream.terminal = true
	switch p.Signals.terminal {
	case ownTerminal: // nobody else would read it
		sc.wants = true
	case noTerminal: // it is somebody else's; as without us, the program may read its stdin
		sc.wants = tty.Is(p.Stdin)
	case sharedTerminal:
		sc.wants = tty.Is(p.Stdin) && !inPipeline()
	}
	return sc, nil
}

// inPipeline reports whether we are one of several programs that a shell has
// started at once.
func inPipeline() bool {
	for fd := range 3 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
			return true
		}
	}
	return false
}

// startOnScreen starts the program on its own terminal.
func (s *supervisor) startOnScreen(path string, attr *syscall.ProcAttr) error {
	sc := s.screen
	foreground := sc.wants && sc.tty.Foreground() && sc.tty.Attach() == nil
	if sc.shared {
		return s.startMonitored(command{path, s.p.Args, s.p.Env, foreground}, attr)
	}
	attr.Sys.Setsid, attr.Sys.Setctty, attr.Sys.Ctty = true, true, sc.descriptor(s.files)
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
	// Those of job control are the program's now.
	take(s.p.Signals.notified, unix.SIGTSTP, unix.SIGCONT)
	sc := s.screen
	sc.leader, s.pid = l, int(l.program.Load())
	sc.tty.SetGroup(s.pid)
	l.tellModes(sc.tty.Modes())
	return nil
}

// startMonitor starts a monitor that has what is to be the program's.
func (s *supervisor) startMonitor(attr *syscall.ProcAttr) (*leader, error) {
	l, theirs, err := newLeader()
	if err != nil {
		return nil, err
	}
	defer unix.Close(theirs) //nolint:errcheck // the monitor has its own, and we must see the end of that
	user, err := unix.FcntlInt(uintptr(s.screen.tty.User()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	defer unix.Close(user) //nolint:errcheck // as above
	// It has them by the same numbers, which are free here: so every descriptor that
	// the program is to inherit reaches it as it is.
	if err := errors.Join(inherit(theirs), inherit(user)); err != nil {
		return nil, errors.Join(err, l.conn.Close())
	}
	// No parent-death signal: when the socket ends it puts things in order and goes.
	attr.Env, attr.Sys = nil, &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: s.screen.descriptor(s.files)}
	args := []string{monitorName, strconv.Itoa(theirs), strconv.Itoa(user)}
	monitor, err := syscall.ForkExec(SelfPath(), args, attr) //nolint:gosec // ourselves
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
		case int(l.program.Load()): // its monitor was killed, and it by the kernel
			s.status = &status
		}
		return monitorEnded && (s.status != nil || l.program.Load() == 0)
	}
	return l, nil
}

// descriptor returns which of the program's is its terminal.
func (sc *screen) descriptor(files [3]*os.File) int { return slices.Index(files[:], sc.stream.child) }

// events returns what there is to wait for: that the program was stopped; and two
// by which the person's terminal may turn out to be gone.
func (sc *screen) events() (stopped <-chan syscall.Signal, hungUp, gone <-chan struct{}) {
	if sc == nil {
		return nil, nil, nil
	}
	if sc.leader != nil {
		stopped = sc.leader.stopped
	}
	return stopped, sc.tty.HungUp(), sc.stream.done
}

// takes reports whether sig is ours to act upon, and has been.
func (sc *screen) takes(sig syscall.Signal) bool {
	switch {
	case sig == unix.SIGWINCH:
		return sc.tty.Resize() // the kernel tells the program
	case sig == unix.SIGCONT && sc.leader != nil:
		sc.resume()
		return true
	case sc.told[sig].Load() > 0: // the program has it from its own terminal
		sc.told[sig].Add(-1)
		return true
	}
	return false
}

// resume continues the program where we are: in the foreground, which it reports, or
// in the background.
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

// suspend has us stopped as the program was, by sig, and our job with us, as the
// terminal would have done. If the program only wants a terminal that we have, it
// gets that instead.
func (s *supervisor) suspend(sig syscall.Signal) {
	sc := s.screen
	use := sig == unix.SIGTTIN || sig == unix.SIGTTOU // of the terminal
	if use {
		sc.wants = true
		if sc.tty.Foreground() {
			if !sc.resume() { // another has it: the program asks again
				time.Sleep(50 * time.Millisecond)
			}
			return
		}
	}
	sc.detach()
	stop := sig
	if sig == unix.SIGSTOP { // which the shell could not tell from one for us alone
		stop = unix.SIGTSTP
	}
	restore := defaultAction(stop)
	_ = unix.Kill(0, stop)
	continued := s.awaitContinue()
	restore()
	switch {
	case continued:
		sc.resume()
	case use: // nobody can give us a terminal: there is nothing to read on it
		sc.leader.tell(msgForeground)
		if sig == unix.SIGTTIN {
			sc.tty.End()
		}
	case sig != unix.SIGSTOP: // without us, it would not have been stopped here
		sc.resume()
	}
}

// awaitContinue returns true when we were stopped and are continued, and false if
// we are not stopped soon: the kernel stops no job whose shell is gone.
func (s *supervisor) awaitContinue() bool {
	// Time passes while we are stopped: what tells us that we are continued may still
	// be on its way when the first is over.
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

// hangUp does to the program's terminal what was done to the person's.
func (sc *screen) hangUp() {
	sc.stream.leave()
	_ = sc.stream.child.Close()
	sc.tty.Close()
}

// programEnded lets what the program has written to its terminal have an end.
func (sc *screen) programEnded() {
	if sc != nil {
		_ = sc.stream.child.Close()
	}
}

// interruptJob gives a signal that a person has typed to everyone in our job, as the
// terminal would have: a script that runs us ends then, or does what it does.
func (sc *screen) interruptJob(sig unix.Signal) {
	if sc.shared && !signal.Ignored(sig) {
		sc.told[sig].Add(1)
		_ = unix.Kill(0, sig)
	}
}

// close gives the person's terminal back and ends the program's. It may be called
// twice, and of nil.
func (sc *screen) close() {
	if sc != nil {
		sc.tty.Close()
		if sc.leader != nil {
			_ = sc.leader.conn.Close()
		}
	}
}
