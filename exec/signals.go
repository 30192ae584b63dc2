package exec

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signals are the signals that we take in order to forward them. They are taken
// from before the program is there, so that none is lost: what asks us to stop
// meanwhile ends a context, and everything else waits for the program.
type Signals struct {
	terminal terminalKind
	c        chan os.Signal
	quit     chan struct{} // closed to end the watching
	done     chan struct{} // closed when it has ended
	early    error         // what asked us to stop; valid once done
	held     []os.Signal   // what waits; valid once done
	passed   bool
}

// StoppedError says that a signal asked us to stop before the program was started.
type StoppedError struct{ Signal syscall.Signal }

// Error names the signal.
func (e *StoppedError) Error() string {
	return "stopped by a signal (" + e.Signal.String() + "); nothing was started"
}

// asksToStop are the signals that end whoever does not handle them, and are sent
// to say so.
var asksToStop = []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}

// TakeSignals begins to take the signals. The context that it returns ends, with
// a [*StoppedError] as its cause, when one of them asks us to stop before they
// are handed over to [Run]. The caller releases them.
func TakeSignals(ctx context.Context) (context.Context, *Signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Signals{terminal: controllingTerminal(), c: make(chan os.Signal, 1024), quit: make(chan struct{}), done: make(chan struct{})}
	signal.Notify(s.c, s.terminal.taken()...)
	go func() {
		defer close(s.done)
		for {
			select {
			case sig := <-s.c:
				if slices.Contains(asksToStop, sig) && s.early == nil {
					s.early = &StoppedError{sig.(syscall.Signal)} //nolint:errcheck,forcetypeassert // os/signal sends nothing else
					cancel(s.early)
					continue
				}
				s.held = append(s.held, sig)
			case <-s.quit:
				return
			}
		}
	}()
	return ctx, s
}

// handOver ends the watching and returns the channel in which the signals are
// from now on, those that wait first; or what asked us to stop.
func (s *Signals) handOver() (chan os.Signal, error) {
	s.end()
	if s.early != nil {
		return nil, s.early
	}
	for _, sig := range s.held {
		select {
		case s.c <- sig:
		default: // a thousand wait already
		}
	}
	s.held = nil
	return s.c, nil
}

func (s *Signals) end() {
	if !s.passed {
		s.passed = true
		close(s.quit)
		<-s.done
	}
}

// Release gives the signals their usual effect again.
func (s *Signals) Release() {
	signal.Stop(s.c)
	s.end()
}

// taken returns the signals that we take. Not among them are those that say
// something about us: SIGCHLD and SIGURG (Go's own preemption); those of job
// control, when a shell stops and continues us together with the program; and
// those that we were started with as ignored (nohup), which the program then
// ignores, too. SIGPIPE is taken so that it does not end us, and goes nowhere.
func (t terminalKind) taken() []os.Signal {
	var signals []os.Signal
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		switch sig {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG, unix.SIGTTIN, unix.SIGTTOU:
			continue
		case unix.SIGTSTP, unix.SIGCONT:
			if t == sharedTerminal {
				continue
			}
		}
		if !signal.Ignored(sig) {
			signals = append(signals, sig)
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
	// program by itself; unless it has a terminal of its own (Process.Terminal).
	sharedTerminal
)

func controllingTerminal() terminalKind {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return noTerminal
	}
	_ = tty.Close()
	if session, err := unix.Getsid(0); err == nil && session == unix.Getpid() {
		return ownTerminal
	}
	return sharedTerminal
}
