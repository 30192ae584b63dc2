package exec

import (
	"context"
	"os"
	"os/signal"
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
	notified chan os.Signal      // what package os/signal sends; those that ask us to stop early go no further
	c        chan syscall.Signal // all others, for Run and then Deadline
	quit     chan struct{}       // closed when nobody reads c any more
	ended    chan struct{}       // closed when nothing is put into c any more
	cancel   func()              // ends the context that TakeSignals has returned
	taking   sync.WaitGroup      // goroutines that do not have all their signals yet

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

// TakeSignals begins to take the signals that supervisors send; [Run] takes the others when
// the program has started. The context that it returns ends, with
// a [*StoppedError] as its cause, when one of them asks us to stop before they
// are handed over to [Run]. The caller releases them.
func TakeSignals(ctx context.Context) (context.Context, *Signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Signals{
		terminal: controllingTerminal(), notified: make(chan os.Signal, 1024), c: make(chan syscall.Signal, 1024),
		quit: make(chan struct{}), ended: make(chan struct{}), cancel: func() { cancel(nil) },
	}
	take(s.notified, asksToStop...)
	s.taking.Go(func() { take(s.notified, s.terminal.first()...) })
	go func() {
		defer close(s.ended)
		for sig, ok := s.next(); ok; sig, ok = s.next() {
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

// take makes package os/signal send the signals to c; but for those that we were started
// with as ignored (nohup), which the program then ignores as well.
func take(c chan<- os.Signal, signals ...syscall.Signal) {
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
}

// next waits for a signal, and returns false once the signals are released.
func (s *Signals) next() (syscall.Signal, bool) {
	select {
	case sig := <-s.notified:
		return number(sig), true
	case <-s.quit:
		return 0, false
	}
}

// takeOthers begins to take the rest of the signals.
func (s *Signals) takeOthers() {
	s.taking.Go(func() {
		for _, sig := range others() {
			select {
			case <-s.quit:
				return
			default:
				take(s.notified, sig)
			}
		}
	})
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
	s.taking.Wait()
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
func (s *Signals) Deadline(
	ctx context.Context, asked time.Time, grace time.Duration,
) (_ context.Context, cancel func()) {
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

// Release begins to give the signals their usual effect again. It may be called twice. It does
// not wait until they have it, which would take longer than everything else in a process that ends.
func (s *Signals) Release() { go s.release() }

func (s *Signals) release() {
	s.once.Do(func() {
		close(s.quit)
		s.cancel()
		s.taking.Wait()
		signal.Stop(s.notified)
	})
}

// giveBack releases the signals for a program that we become, and returns what has
// asked us to stop. Any other that has come does to us what it would have done to
// the program, which has no handler yet.
func (s *Signals) giveBack() error {
	s.taking.Wait()
	for _, sig := range slices.Concat(asksToStop, s.terminal.first()) {
		if !signal.Ignored(sig) {
			_ = defaultAction(sig) // the runtime's handler would stay, and drop some of them
		}
	}
	s.release()
	<-s.ended
	for len(s.c) > 0 || len(s.notified) > 0 {
		var sig syscall.Signal
		select {
		case sig = <-s.c:
		case got := <-s.notified:
			sig = number(got)
		}
		if sig != unix.SIGPIPE && !s.asksEarly(sig) { // SIGPIPE is ours: nobody reads what we say
			_ = unix.Kill(unix.Getpid(), sig)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early != nil {
		return s.early
	}
	return nil
}

// number returns sig, which package os/signal has sent, as what it always is.
func number(sig os.Signal) syscall.Signal {
	return sig.(syscall.Signal) //nolint:errcheck,forcetypeassert // its documentation says so
}

// lastSignal is the last real-time signal on Linux. Package os/signal ignores those that a system
// does not have.
const lastSignal = syscall.Signal(64)

// first returns the signals that are taken before the program is there: those that people, shells
// and supervisors send. Not among them are those of job control when a shell stops and
// continues us together with the program. SIGPIPE is taken so that it does not end us,
// and goes nowhere.
func (t terminalKind) first() []syscall.Signal {
	signals := []syscall.Signal{unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}
	if t != sharedTerminal {
		signals = append(signals, unix.SIGTSTP, unix.SIGCONT)
	}
	if t == noTerminal { // else the kernel sends them to us for what we do
		signals = append(signals, unix.SIGTTIN, unix.SIGTTOU)
	}
	return signals
}

// others returns the signals that are taken once the program is there. Not among them are those
// that say something about us, SIGCHLD and SIGURG (Go's own preemption), and two that
// the C library keeps for itself.
func others() (signals []syscall.Signal) {
	taken := slices.Concat(asksToStop, noTerminal.first())
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, 32, 33:
		default:
			if !slices.Contains(taken, sig) {
				signals = append(signals, sig)
			}
		}
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
	// program by itself.
	sharedTerminal
	// screenTerminal: the program has a terminal of its own, a [screen] (Process.Terminal).
	screenTerminal
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
