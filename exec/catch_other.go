//go:build !linux || !(amd64 || arm64)

package exec

import (
	"os"
	"os/signal"
	"syscall"
)

// lastSignal is the last that is not a real-time signal.
const lastSignal = syscall.Signal(31)

// catcher is the signals that are caught, by way of os/signal.
type catcher struct {
	c    chan os.Signal
	done chan struct{}
}

// newCatcher returns a catcher of nothing yet.
func newCatcher() *catcher {
	return &catcher{make(chan os.Signal, 1024), make(chan struct{})}
}

// take catches the signals, too; but for those that we were started with as ignored
// (nohup), which the program then ignores as well.
func (c *catcher) take(signals ...syscall.Signal) {
	for _, sig := range signals { // none would be all
		if !signal.Ignored(sig) {
			signal.Notify(c.c, sig)
		}
	}
}

// next returns a signal that has come, and waits for one; 0 once end is called.
func (c *catcher) next() syscall.Signal {
	select {
	case sig := <-c.c:
		return sig.(syscall.Signal) //nolint:errcheck,forcetypeassert // os/signal sends nothing else
	case <-c.done:
		return 0
	}
}

// continued cannot tell.
func (c *catcher) continued() bool { return false }

// rest returns what has come and next has not returned, after it has ended.
func (c *catcher) rest() (signals []syscall.Signal) {
	for len(c.c) > 0 {
		signals = append(signals, (<-c.c).(syscall.Signal)) //nolint:errcheck,forcetypeassert // os/signal sends nothing else
	}
	return signals
}

// end gives the signals the effect that they had, and ends next.
func (c *catcher) end() {
	signal.Stop(c.c)
	close(c.done)
}

// defaultAction gives sig its usual effect, as far as Go does: SIGTSTP may have
// none.
func defaultAction(sig syscall.Signal) (restore func()) {
	signal.Reset(sig)
	return func() {}
}
