package exec

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signals are the signals that we take in order to forward them. They are taken
// from before the program is there, so that none is lost: what asks us to stop
// meanwhile ends a context, and everything else waits for the program.
type Signals struct {
	terminal terminalKind
	catcher  *catcher
	c        chan syscall.Signal
	quit     chan struct{} // closed when nobody reads c any more
	ended    chan struct{} // closed when nothing is put into c any more
	cancel   func()        // ends the context that TakeSignals has returned

	once   sync.Once // for Release
	mu     sync.Mutex
	passed bool          // to Run
	early  *StoppedError // what has asked us to stop before that
}

// StoppedError says that a signal asked us to stop before the program was started.
type StoppedError struct{ Signal syscall.Signal }

// Error names the signal.
func (e *StoppedError) Error() string {
	return "stopped by a signal (" + e.Signal.String() + "); nothing was started"
}

// asksToStop are the signals that end whoever does not handle them, and are sent
// to say so.
var asksToStop = []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}

// TakeSignals begins to take the signals. The context that it returns ends, with
// a [*StoppedError] as its cause, when one of them asks us to stop before they
// are handed over to [Run]. The caller releases them. Package os/signal does not
// get them meanwhile, and nobody may take them twice.
func TakeSignals(ctx context.Context) (context.Context, *Signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Signals{
		terminal: controllingTerminal(), catcher: newCatcher(), c: make(chan syscall.Signal, 1024),
		quit: make(chan struct{}), ended: make(chan struct{}), cancel: func() { cancel(nil) },
	}
	s.catcher.take(s.terminal.taken()...)
	go func() {
		defer close(s.ended)
		for sig := s.catcher.next(); sig != 0; sig = s.catcher.next() {
			if s.asksEarly(sig) {
				cancel(s.early)
				continue
			}
			select { // whatever else is ready, what has come is not dropped
			case s.c <- sig:
				continue
			default:
			}
			select {
			case s.c <- sig: // when a thousand wait already: as soon as Run has taken one
			case <-s.quit:
				return
			}
		}
	}()
	return ctx, s
}

// asksEarly reports whether sig asks us to stop before there is a program.
func (s *Signals) asksEarly(sig syscall.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed || !slices.Contains(asksToStop, sig) {
		return false
	}
	if s.early == nil {
		s.early = &StoppedError{sig}
	}
	return true
}

// handOver returns the channel in which the signals are from now on, those that
// wait first; or what asked us to stop.
func (s *Signals) handOver() (chan syscall.Signal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed = true
	if s.early != nil {
		return nil, s.early
	}
	return s.c, nil
}

// DieOf ends us by sig, whatever Go's runtime does of it. It returns where no signal
// ends a process: in process 1.
func DieOf(sig syscall.Signal) {
	_ = defaultAction(sig)
	_ = unix.Kill(unix.Getpid(), sig)
	time.Sleep(10 * time.Millisecond) // it is on its way
}

// Deadline returns a context for what there is to do once Run has returned. It ends
// grace after we were asked to stop, which may have been before or may come, and at once
// when we are asked again; with a grace of 0 only that ends it. The caller calls cancel, and
// nobody else takes the signals until then.
func (s *Signals) Deadline(ctx context.Context, asked time.Time, grace time.Duration) (_ context.Context, cancel func()) {
	ctx, end := context.WithCancel(ctx)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer end()
		var over <-chan time.Time
		begin := func(since time.Time) {
			asked = since
			if grace > 0 {
				over = time.After(time.Until(since.Add(grace)))
			}
		}
		if !asked.IsZero() {
			begin(asked)
		}
		for {
			select {
			case <-quit:
				return
			case <-over:
				return
			case sig := <-s.c:
				switch {
				case !slices.Contains(asksToStop, sig):
				case asked.IsZero():
					begin(time.Now())
				default:
					return
				}
			}
		}
	}()
	return ctx, func() {
		close(quit)
		<-ended
	}
}

// Release gives the signals their usual effect again. It may be called twice.
func (s *Signals) Release() {
	s.once.Do(func() {
		s.catcher.end()
		close(s.quit)
		s.cancel()
	})
}

// giveBack releases the signals for a program that we become, and returns what has
// asked us to stop. Any other that has come does to us what it would have done to
// the program, which has no handler yet.
func (s *Signals) giveBack() error {
	s.Release()
	<-s.ended
	waiting := s.catcher.rest()
	for len(s.c) > 0 {
		waiting = append(waiting, <-s.c)
	}
	for _, sig := range waiting {
		if sig == unix.SIGPIPE || s.asksEarly(sig) { // the first is ours: nobody reads what we say
			continue
		}
		_ = defaultAction(sig)
		_ = unix.Kill(unix.Getpid(), sig)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early != nil {
		return s.early
	}
	return nil
}

// taken returns the signals that we take. Not among them are those that say
// something about us: SIGCHLD and SIGURG (Go's own preemption); those of job
// control, when a shell stops and continues us together with the program; and two
// that the C library keeps for itself. SIGPIPE is taken so that it does not end us,
// and goes nowhere.
func (t terminalKind) taken() []syscall.Signal {
	signals := make([]syscall.Signal, 0, lastSignal)
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, 32, 33:
			continue
		case unix.SIGTTIN, unix.SIGTTOU:
			if t != noTerminal { // the kernel sends them to us for what we do
				continue
			}
		case unix.SIGTSTP, unix.SIGCONT:
			if t == sharedTerminal {
				continue
			}
		}
		signals = append(signals, sig)
	}
	return signals
}

// terminalKind is what our controlling terminal is to us, and so where the program goes.
type terminalKind int

const (
	// noTerminal: there is no terminal; the program leads a group of its own, which gets
	// every signal.
	noTerminal terminalKind = iota
	// ownTerminal: the terminal is ours alone, as in a container that has one. The
	// program's own group is its foreground, and gets every signal.
	ownTerminal
	// sharedTerminal: a shell has made a job of us. The program stays in our group, and
	// what the terminal sends to the job (Ctrl-C, Ctrl-Z, its size) reaches the
	// program by itself; unless it has a terminal of its own (Process.Terminal).
	sharedTerminal
)

func controllingTerminal() terminalKind {
	// Not by os.Open, which would set up Go's poller for it.
	tty, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return noTerminal
	}
	_ = unix.Close(tty)
	if session, err := unix.Getsid(0); err == nil && session == unix.Getpid() {
		return ownTerminal
	}
	return sharedTerminal
}
