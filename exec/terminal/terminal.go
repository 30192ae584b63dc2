// Package terminal puts a pseudo-terminal (a PTY) between a program and the terminal of the person
// who started it, so that the program's output can be read on its way without the program noticing.
// It carries typed keys to the program, keeps the size and modes of the two terminals equal, and
// restores the person's terminal. It starts and stops no process. Package exec does that, and reads
// the output, which it shows by way of [Terminal.Write].
package terminal

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A Terminal is a program's pseudo-terminal, which stands in for a person's terminal. Its methods
// must not be called by several goroutines at a time, but for Write, which one other may call.
type Terminal struct {
	user    int      // the person's terminal; opened anew if it is our controlling terminal
	out     *os.File // the person's terminal, as the caller has it, for output
	job     bool     // it is our controlling terminal, so a shell may put us into the background
	master  int      // our end of the pseudo-terminal, which is non-blocking
	program *os.File // the program's end

	attached bool         // typed keys go to the program
	began    bool         // the pseudo-terminal has got its modes from the person's terminal
	size     unix.Winsize // its last known size
	group    atomic.Int32 // the program's process group
	typed    func(unix.Signal)
	wake     [2]int        // a pipe to the relay: attach, detach, quit
	detached chan struct{} // the relay's answers to detach
	done     chan struct{} // closed when the relay has ended
	hungUp   chan struct{} // closed when the person's terminal is gone
	close    sync.Once
	both     unix.Termios // see bothHave

	mu      sync.Mutex   // for what follows, which the relay and Write use, too
	raw     bool         // the person's terminal is in raw mode
	saved   unix.Termios // its modes before that
	agreed  unix.Termios // the modes in which both terminals agreed when they were last compared
	writing bool         // Write relies on the modes that the person's terminal has
	ahead   []byte       // keys for the relay that were typed before it was attached
}

// New returns a pseudo-terminal that stands in for user. It has the size of user from the
// beginning, and its modes from the first [Terminal.Attach] on. When the person types a key that
// sends a signal to the program's own group, another goroutine calls typed before the group gets
// the signal.
func New(user *os.File, typed func(unix.Signal)) (*Terminal, error) {
	t := &Terminal{
		user: -1, out: user, master: -1, wake: [2]int{-1, -1}, typed: typed,
		detached: make(chan struct{}), done: make(chan struct{}), hungUp: make(chan struct{}),
	}
	ptmx, program, err := pty.Open()
	if err != nil {
		return nil, err
	}
	t.program = program
	t.master, err = unix.FcntlInt(ptmx.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	_ = ptmx.Close()
	if err == nil {
		err = unix.SetNonblock(t.master, true)
	}
	if err == nil {
		err = t.openUser(user)
	}
	if err == nil {
		err = pipe(&t.wake)
	}
	if err != nil {
		t.program.Close() //nolint:errcheck // never used
		t.closeAll()
		return nil, err
	}
	t.both = bothHave(echoCanStop(t.master, int(t.program.Fd())))
	t.Resize()
	go t.relay()
	return t, nil
}

// openUser opens the person's terminal anew, so that non-blocking mode does not affect other users
// of its description. If it is not the terminal of our session, it can only be duplicated.
func (t *Terminal) openUser(user *os.File) error {
	if _, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPGRP); err == nil {
		t.job = true
		const mode = unix.O_RDWR | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
		if t.user, err = unix.Open("/dev/tty", mode, 0); err == nil {
			return nil
		}
	}
	var err error
	t.user, err = unix.FcntlInt(user.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return err
}

// pipe makes a pipe whose ends are close-on-exec and in blocking mode.
func pipe(fds *[2]int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only its copy is used
	defer w.Close() //nolint:errcheck // only its copy is used
	for i, f := range []*os.File{r, w} {
		if fds[i], err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
	}
	return nil
}

// Program returns the program's end. The caller closes it once the program has started.
func (t *Terminal) Program() *os.File { return t.program }

// Output returns a new descriptor from which the program's output can be read without blocking. At
// the end of the output, reading fails with EIO.
func (t *Terminal) Output() (int, error) {
	return unix.FcntlInt(uintptr(t.master), unix.F_DUPFD_CLOEXEC, 0)
}

// HungUp returns a channel that is closed when the person's terminal is gone.
func (t *Terminal) HungUp() <-chan struct{} { return t.hungUp }

// Rename returns env with the pseudo-terminal's path in each variable whose value is a path of the
// person's terminal, as that of GPG_TTY is. A program that opened the person's terminal by such a
// path would share the typed keys with the relay: each would get some of them.
func (t *Terminal) Rename(env []string) []string {
	user, err := device(t.user)
	if err != nil {
		return env
	}
	env = slices.Clone(env)
	for i, e := range env {
		name, path, _ := strings.Cut(e, "=")
		var stat unix.Stat_t
		if strings.HasPrefix(path, "/dev/") && unix.Stat(path, &stat) == nil &&
			stat.Mode&unix.S_IFMT == unix.S_IFCHR && uint64(stat.Rdev) == user { //nolint:unconvert // an int32 on macOS
			env[i] = name + "=" + t.program.Name()
		}
	}
	return env
}

// User returns the descriptor of the person's terminal. The caller must not close it.
func (t *Terminal) User() int { return t.user }

// End types the key that ends the input, as if the person had done so.
func (t *Terminal) End() { _, _ = unix.Write(t.master, t.endKey()) }

// endKey returns the key that ends the program's input, or nothing if it has none.
func (t *Terminal) endKey() []byte {
	m, err := modes(t.master)
	if err != nil || m.Cc[unix.VEOF] == disabled {
		return nil
	}
	return []byte{m.Cc[unix.VEOF]}
}

// SetGroup sets the program's own process group, which New's argument typed depends on.
func (t *Terminal) SetGroup(group int) { t.group.Store(int32(group)) } //nolint:gosec // a pid

// Foreground reports whether we are in the foreground of the person's terminal. If that is not our
// controlling terminal, there is no job control and the answer is true.
func (t *Terminal) Foreground() bool {
	if !t.job {
		return true
	}
	group, err := unix.IoctlGetInt(t.user, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// ErrTaken says that another Terminal, of another process, is attached to the person's terminal.
var ErrTaken = errors.New("another process is attached to the terminal")

// Attach puts the person's terminal into raw mode and carries every key that is typed to the
// program. It gives the pseudo-terminal the size of the person's terminal and, the first time, its
// modes. It must be called in the foreground only.
//
// If another Terminal is attached to the person's terminal, Attach changes nothing there and
// returns ErrTaken. The two would take keys from each other and restore each other's modes.
func (t *Terminal) Attach() error {
	t.mu.Lock()
	err := t.attachModes()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	t.Resize()
	if !t.attached {
		t.attached = true
		t.tell(attach)
	}
	return nil
}

// Detach stops carrying typed keys to the program, and restores the modes of the person's terminal.
func (t *Terminal) Detach() {
	if t.attached {
		t.attached = false
		t.tell(detach)
		select {
		case <-t.detached:
		case <-t.done:
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw {
		t.raw = false
		if t.Foreground() { // in the background the modes are those of another job
			_ = drainAndSetModes(t.user, &t.saved)
		}
	}
}

// Resize gives the pseudo-terminal the size of the person's terminal, and reports whether that is a
// new size. If so, the kernel sends SIGWINCH to the program.
func (t *Terminal) Resize() bool {
	size, err := unix.IoctlGetWinsize(t.user, unix.TIOCGWINSZ)
	if err != nil || *size == t.size {
		return false
	}
	t.size = *size
	_ = unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, size)
	return true
}

// Close restores the person's terminal and hangs up the pseudo-terminal. It may be called twice.
func (t *Terminal) Close() {
	t.close.Do(func() {
		t.Detach()
		t.tell(quit)
		<-t.done
		t.closeAll()
	})
}

func (t *Terminal) closeAll() {
	for _, fd := range []int{t.user, t.master, t.wake[0], t.wake[1]} {
		_ = unix.Close(fd) // fails if fd is -1, which stands for none
	}
}

// The messages to the relay.
const (
	attach = 'a'
	detach = 'd'
	quit   = 'q'
)

func (t *Terminal) tell(what byte) { _, _ = unix.Write(t.wake[1], []byte{what}) }

// relay carries typed keys to the pseudo-terminal while attached. It blocks in poll(2) alone and
// never in a read or write. So it can always be told to quit, even if the program reads nothing.
func (t *Terminal) relay() {
	defer close(t.done)
	// With the signals blocked, a read in the background fails and does not stop our whole job. The
	// thread ends with this goroutine, because it stays locked.
	runtime.LockOSThread()
	BlockSignals()
	buf := make([]byte, 4096)
	var held []byte // typed keys that the pseudo-terminal has not accepted yet
	attached, gone := false, false
	for {
		told, keys, room, err := t.poll(attached && !gone, len(held) > 0)
		switch {
		case err != nil:
			return
		case told:
			var what [1]byte
			if n, _ := unix.Read(t.wake[0], what[:]); n != 1 || what[0] == quit {
				return
			}
			if attached = what[0] == attach; attached {
				held = append(slices.Clip(held), t.takeAhead()...)
			} else {
				t.detached <- struct{}{}
			}
		case keys:
			n, err := unix.Read(t.user, buf)
			switch {
			case n > 0:
				held = buf[:n]
				t.followModes(true) // before the keys are passed on, which were typed after a change
				t.note(held)
			case err == nil && !hasHungUp(t.user): // the end of input, in a mode that another process has set
				held = t.endKey()
			case again(err):
			case errors.Is(err, unix.EIO) && !t.Foreground():
				attached = false // we have been put into the background, and Detach will follow
			default:
				gone = true
				close(t.hungUp)
			}
		case !room:
			t.followModes(false)
		default:
			n, err := unix.Write(t.master, held)
			if err != nil && !again(err) { // no process has the other end open
				n = len(held)
			}
			held = held[max(n, 0):]
		}
	}
}

// poll waits for a message to the relay; and for room for the keys that are held or, if there are
// none, for keys if the caller wants some. It then waits no longer than followEvery.
func (t *Terminal) poll(wanted, held bool) (told, keys, room bool, err error) {
	fds := []unix.PollFd{
		{Fd: int32(t.wake[0]), Events: unix.POLLIN}, //nolint:gosec // a descriptor
		{Fd: -1, Events: unix.POLLIN},
		{Fd: -1, Events: unix.POLLOUT},
	}
	timeout := -1
	if wanted {
		timeout = int(followEvery.Milliseconds())
	}
	switch {
	case held:
		fds[2].Fd = int32(t.master) //nolint:gosec // a descriptor
	case wanted:
		fds[1].Fd = int32(t.user) //nolint:gosec // a descriptor
	}
	if _, err := unix.Poll(fds, timeout); err != nil && !errors.Is(err, unix.EINTR) {
		return false, false, false, err
	}
	return fds[0].Revents != 0, fds[1].Revents != 0, fds[2].Revents != 0, nil
}

// takeAhead returns the keys that were typed before the relay was attached.
func (t *Terminal) takeAhead() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := t.ahead
	t.ahead = nil
	return keys
}

// hasHungUp reports whether the terminal fd is gone.
func hasHungUp(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}} //nolint:gosec // a descriptor
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP != 0
}

func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// note calls t.typed for each key for which the pseudo-terminal will send a signal to the
// program's own group.
func (t *Terminal) note(typed []byte) {
	m, err := modes(t.master)
	if err != nil || m.Lflag&unix.ISIG == 0 {
		return
	}
	for _, key := range []struct {
		char byte
		sig  unix.Signal
	}{{m.Cc[unix.VINTR], unix.SIGINT}, {m.Cc[unix.VQUIT], unix.SIGQUIT}} {
		for _, c := range typed {
			if c != key.char || c == 0 {
				continue
			}
			group, err := unix.IoctlGetInt(t.master, unix.TIOCGPGRP)
			if err == nil && group == int(t.group.Load()) {
				t.typed(key.sig)
			}
		}
	}
}
