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

// Signals are the signals that we take in order to forward them. Taking begins before the program
// starts. Until then a signal that asks us to stop ends a context, and every other one waits for
// the program.
type Signals struct {
	terminal terminalKind
	notified chan os.Signal      // from package os/signal
	c        chan syscall.Signal // the same signals for Run and then Deadline, but for early ones
	quit     chan struct{}       // closed when c has no reader any more
	ended    chan struct{}       // closed when c has no writer any more
	cancel   func()              // ends the context that TakeSignals has returned
	taking   sync.WaitGroup      // goroutines that have signals left to take

	once   sync.Once // for Release
	mu     sync.Mutex
	passed bool          // Run has called handOver
	early  *StoppedError // the first signal that asked us to stop before that
}

// StoppedError says that a signal asked us to stop before the program was started.
type StoppedError struct{ Signal syscall.Signal }

// Error names the signal.
func (e *StoppedError) Error() string {
	return "stopped by a signal (" + e.Signal.String() + "); nothing was started"
}

// asksToStop are the signals that are sent to make a process end.
var asksToStop = []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}

// TakeSignals takes the signals that would end us, and begins to take the others that people,
// shells and supervisors send. [Run] takes the rest when the program has started. If a signal
// asks us to stop before Run starts the program, the returned context ends with a [*StoppedError]
// as its cause. The caller calls [Signals.Release].
func TakeSignals(ctx context.Context) (context.Context, *Signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Signals{
		terminal: controllingTerminal(), notified: make(chan os.Signal, 1024), c: make(chan syscall.Signal, 1024),
		quit: make(chan struct{}), ended: make(chan struct{}), cancel: func() { cancel(nil) },
	}
	take(s.notified, unix.SIGPIPE) // or a write could end us once there are files to clean up
	take(s.notified, asksToStop...)
	s.taking.Go(func() { take(s.notified, s.terminal.first()...) })
	go func() {
		defer close(s.ended)
		for sig, ok := s.next(); ok; sig, ok = s.next() {
			if s.asksEarly(sig) {
				cancel(s.early)
				continue
			}
			select { // not the next one alone, which could choose quit and drop the signal
			case s.c <- sig:
				continue
			default:
			}
			select {
			case s.c <- sig: // c was full
			case <-s.quit:
				return
			}
		}
	}()
	return ctx, s
}

// take makes package os/signal send the signals to c. A signal that was ignored when we started, as
// SIGHUP is by nohup(1), is not taken, so that the program ignores it, too.
func take(c chan<- os.Signal, signals ...syscall.Signal) {
	for _, sig := range signals {
		if !signal.Ignored(sig) {
			signal.Notify(c, sig)
		}
	}
}

// next waits for a signal. It returns false once the signals are released.
func (s *Signals) next() (syscall.Signal, bool) {
	select {
	case sig := <-s.notified:
		return number(sig), true
	case <-s.quit:
		return 0, false
	}
}

// takeOthers begins to take the rest of the signals, and stops at a Release.
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

// asksEarly reports whether sig asks us to stop before the program has started, and notes it.
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

// handOver returns the channel from which Run takes the signals, the waiting ones first. If a
// signal has asked us to stop, it returns that as a [*StoppedError].
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

// DieOf ends this process by sig, also by one that Go's runtime handles otherwise. It returns
// only in process 1, which no signal with its default action ends.
func DieOf(sig syscall.Signal) {
	_ = defaultAction(sig)
	_ = unix.Kill(unix.Getpid(), sig)
	time.Sleep(10 * time.Millisecond) // until the kernel has delivered it
}

// Deadline returns a context for the caller's work after Run. asked is when we were asked to
// stop, or the zero Time. The context ends grace after that or, if it comes later, after the
// first signal that asks us to stop. A further such signal ends it at once. A grace of 0 is
// endless. Deadline reads the signals until the caller calls cancel.
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

// Release begins to give the signals their usual effect again. It does not wait until they have
// it, because that takes longer than the rest of a process that is about to end. It may be called
// twice.
func (s *Signals) Release() { go s.release() }

func (s *Signals) release() {
	s.once.Do(func() {
		close(s.quit)
		s.cancel()
		s.taking.Wait()
		signal.Stop(s.notified)
	})
}

// giveBack releases the signals before we become the program. It returns a [*StoppedError] if a
// signal has asked us to stop. Every other signal that waits is sent to us again, with its
// default action: that is what it would have done to the program, which has no handler yet.
func (s *Signals) giveBack() error {
	s.taking.Wait()
	for _, sig := range slices.Concat(asksToStop, s.terminal.first()) {
		if !signal.Ignored(sig) {
			_ = defaultAction(sig) // or the handler of Go's runtime would stay and drop some of them
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
		if sig != unix.SIGPIPE && !s.asksEarly(sig) { // a SIGPIPE comes from our own writing
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

// number returns the number of a signal that package os/signal has sent.
func number(sig os.Signal) syscall.Signal {
	return sig.(syscall.Signal) //nolint:errcheck,forcetypeassert // it sends no other type
}

// lastSignal is the last real-time signal on Linux. Package os/signal ignores numbers that the
// system does not have.
const lastSignal = syscall.Signal(64)

// power is SIGPWR on Linux. macOS does not have that signal, and uses its number for SIGUSR1.
const power = syscall.Signal(30)

// first returns the signals that are taken before the program starts, beside asksToStop. People,
// shells and supervisors send them. If a shell stops and continues us together with the program,
// those of job control are left out. SIGPIPE is taken so that our own writing
// does not end us; it is not forwarded.
func (t terminalKind) first() []syscall.Signal {
	signals := []syscall.Signal{
		unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH,
		unix.SIGALRM, unix.SIGVTALRM, unix.SIGIO, unix.SIGXCPU, power,
		// Go's runtime would crash at these.
		unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGILL, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV,
	}
	if t != sharedTerminal {
		signals = append(signals, unix.SIGTSTP, unix.SIGCONT)
	}
	if t == noTerminal { // on a terminal the kernel sends them to us for our own reads and writes
		signals = append(signals, unix.SIGTTIN, unix.SIGTTOU)
	}
	return signals
}

// others returns the signals that are taken once the program has started. It leaves out SIGCHLD
// and SIGURG, which are about us (Go preempts goroutines by SIGURG), and the two that the C
// library keeps.
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

// terminalKind is what our controlling terminal is to us. It decides in which process group the
// program runs and which signals it needs from us.
type terminalKind int

const (
	// noTerminal: there is no terminal. The program leads a group of its own, which gets every
	// signal.
	noTerminal terminalKind = iota
	// ownTerminal: we lead the terminal's session, as in a container that has a terminal. The
	// program's own group is in the foreground and gets every signal.
	ownTerminal
	// sharedTerminal: we are a job of a shell. The program stays in our group, so that the
	// signals that the terminal sends to the job (Ctrl-C, Ctrl-Z, a new size) reach it directly.
	sharedTerminal
	// screenTerminal: the program has a pseudo-terminal, a [screen] (Process.Terminal).
	screenTerminal
)

func controllingTerminal() terminalKind {
	// os.Open would set up Go's poller for it.
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
