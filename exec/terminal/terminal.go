// Package terminal puts a terminal of its own (a PTY) between a program and the
// terminal of the person who started it, so that what the program shows can be
// read on its way and the program cannot tell. It carries what is typed to the
// program, keeps size and modes alike, and gives the person's terminal back as
// it was. It starts no process and stops none, and what becomes of what the
// program shows is its user's business: package exec's.
package terminal

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A Terminal is a program's terminal that stands in for a person's. Its methods
// are for one goroutine.
type Terminal struct {
	user    int  // the person's terminal, by a description of our own if it is our controlling one
	job     bool // it is: a shell may take it from us
	master  int  // our end of the program's terminal; does not block
	program *os.File

	attached bool         // what is typed goes to the program
	began    bool         // the program's terminal has had its modes from the person's
	raw      bool         // we have changed the modes of the person's terminal
	saved    unix.Termios // what they were
	size     unix.Winsize // as it was last seen
	group    atomic.Int32 // of the program
	typed    func(unix.Signal)
	wake     [2]int        // a pipe by which the relay is told: to attach, to detach, to quit
	detached chan struct{} // answers of the relay
	done     chan struct{} // closed when it has ended
	hungUp   chan struct{} // closed when the person's terminal is gone
	close    sync.Once
}

// New returns a new terminal that stands in for the one that user is. It has its
// size from the beginning, and its modes from the first [Terminal.Attach] on. typed
// is called when a person has typed the key that sends a signal, before the
// program's own group gets that; it is called by another goroutine.
func New(user *os.File, typed func(unix.Signal)) (*Terminal, error) {
	t := &Terminal{
		user: -1, master: -1, wake: [2]int{-1, -1}, typed: typed,
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
	t.Resize()
	t.setOutput(false)
	go t.relay()
	return t, nil
}

// openUser opens the person's terminal once more, so that how we wait for it is
// nobody else's business; or takes the descriptor as it is if we are not of its
// session, and it cannot be opened as ours.
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

// pipe makes a pipe that programs do not inherit.
func pipe(fds *[2]int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // copies stay
	defer w.Close() //nolint:errcheck // copies stay
	for i, f := range []*os.File{r, w} {
		if fds[i], err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
	}
	return nil
}

// Program returns the program's end. Whoever starts the program closes it.
func (t *Terminal) Program() *os.File { return t.program }

// Output returns a new descriptor from which to read, without blocking, what the
// program shows. Its end is EIO.
func (t *Terminal) Output() (int, error) {
	return unix.FcntlInt(uintptr(t.master), unix.F_DUPFD_CLOEXEC, 0)
}

// HungUp returns a channel that is closed when the person's terminal is gone.
func (t *Terminal) HungUp() <-chan struct{} { return t.hungUp }

// User returns the descriptor of the person's terminal. It stays t's.
func (t *Terminal) User() int { return t.user }

// End types the key that ends the input.
func (t *Terminal) End() {
	if m, err := modes(t.master); err == nil {
		_, _ = unix.Write(t.master, []byte{m.Cc[unix.VEOF]})
	}
}

// SetGroup says which process group is the program's own; see New.
func (t *Terminal) SetGroup(group int) { t.group.Store(int32(group)) } //nolint:gosec // a pid

// Foreground reports whether the person's terminal is ours now. One that is
// nobody's job control is.
func (t *Terminal) Foreground() bool {
	if !t.job {
		return true
	}
	group, err := unix.IoctlGetInt(t.user, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// ErrTaken says that something else hands on what is typed.
var ErrTaken = errors.New("the terminal is another's")

// Attach makes the person's terminal hand on every key as it is typed. The
// program's has its modes from then on, if this is the first time, and its size.
// It is to be called in the foreground only. It returns ErrTaken, and changes
// nothing of the person's terminal, if another Terminal is attached to it: two would
// each take what is typed from the other, and give back the other's modes.
func (t *Terminal) Attach() error {
	now, err := modes(t.user)
	if err != nil {
		return err
	}
	raw := now
	makeRaw(&raw)
	if !t.raw {
		if now == raw {
			t.setOutput(true)
			return ErrTaken
		}
		t.saved = now
	}
	if !t.began {
		t.began = true
		inner := t.saved
		// What is shown comes to the person's terminal as it was written: a value with a tab
		// in it must not be another text by the time that it is looked at.
		inner.Oflag &^= changesText
		_ = setModes(t.master, &inner)
	} else {
		t.setOutput(true)
	}
	t.Resize()
	t.raw = true
	if err := setModes(t.user, &raw); err != nil {
		return err
	}
	if !t.attached {
		t.attached = true
		t.tell(attach)
	}
	return nil
}

// Detach stops taking what is typed, and gives the person's terminal its modes
// back.
func (t *Terminal) Detach() {
	if t.attached {
		t.attached = false
		t.tell(detach)
		select {
		case <-t.detached:
		case <-t.done:
		}
	}
	if t.raw {
		t.raw = false
		if t.Foreground() { // else whoever has it has set its modes, too
			_ = drainAndSetModes(t.user, &t.saved)
		}
		t.setOutput(false)
	}
}

// Modes are a terminal's modes before we changed them, and as we have set them.
type Modes struct{ Before, Raw unix.Termios }

// Modes returns what the person's terminal needs to be given back; the same twice
// if that is nothing.
func (t *Terminal) Modes() Modes {
	if !t.raw {
		return Modes{}
	}
	m := Modes{t.saved, t.saved}
	makeRaw(&m.Raw)
	return m
}

// Restore gives the terminal that fd is its modes back, unless somebody has changed
// them since. It is for whoever outlives the one who has set them.
func (m Modes) Restore(fd int) {
	if now, err := modes(fd); err == nil && now == m.Raw && m.Raw != m.Before {
		_ = setModes(fd, &m.Before)
	}
}

// setOutput makes the program's terminal end its lines as one does, or leaves that
// to the person's, which does it unless we have told it not to.
func (t *Terminal) setOutput(process bool) {
	m, err := modes(t.master)
	if err != nil {
		return
	}
	m.Oflag &^= unix.OPOST
	if process {
		m.Oflag |= unix.OPOST
	}
	_ = setModes(t.master, &m)
}

// Resize gives the program's terminal the size of the person's, and reports
// whether that was another one: the kernel tells the program then.
func (t *Terminal) Resize() bool {
	size, err := unix.IoctlGetWinsize(t.user, unix.TIOCGWINSZ)
	if err != nil || *size == t.size {
		return false
	}
	t.size = *size
	_ = unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, size)
	return true
}

// Close gives the person's terminal its modes back and hangs the program's up.
// It may be called twice.
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
		_ = unix.Close(fd) // of -1, which is none: an error
	}
}

// What the relay is told.
const (
	attach = 'a'
	detach = 'd'
	quit   = 'q'
)

func (t *Terminal) tell(what byte) { _, _ = unix.Write(t.wake[1], []byte{what}) }

// relay carries what is typed to the program's terminal, while it is attached. It
// waits in the kernel for all it needs, and blocks in nothing else: a program that
// reads nothing keeps nobody from ending.
func (t *Terminal) relay() {
	defer close(t.done)
	// In the background a read fails instead of stopping us all. The thread ends with
	// this goroutine.
	runtime.LockOSThread()
	BlockSignals()
	buf := make([]byte, 4096)
	var held []byte // was typed, and is not taken yet
	attached, gone := false, false
	for {
		fds := []unix.PollFd{
			{Fd: int32(t.wake[0]), Events: unix.POLLIN}, //nolint:gosec // a descriptor
			{Fd: -1, Events: unix.POLLIN},
			{Fd: -1, Events: unix.POLLOUT},
		}
		switch {
		case len(held) > 0:
			fds[2].Fd = int32(t.master) //nolint:gosec // a descriptor
		case attached && !gone:
			fds[1].Fd = int32(t.user) //nolint:gosec // a descriptor
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		switch {
		case fds[0].Revents != 0:
			var what [1]byte
			if n, _ := unix.Read(t.wake[0], what[:]); n != 1 || what[0] == quit {
				return
			}
			attached = what[0] == attach
			if !attached {
				t.detached <- struct{}{}
			}
		case fds[1].Revents != 0:
			n, err := unix.Read(t.user, buf)
			switch {
			case n > 0:
				held = buf[:n]
				t.note(held)
			case again(err):
			case errors.Is(err, unix.EIO) && !t.Foreground():
				attached = false // it was taken from us, and we are about to hear of it
			default:
				gone = true
				close(t.hungUp)
			}
		case fds[2].Revents != 0:
			n, err := unix.Write(t.master, held)
			if err != nil && !again(err) { // nobody has the other end open
				n = len(held)
			}
			held = held[max(n, 0):]
		}
	}
}

func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// note tells of the keys by which the program's terminal will send a signal to the
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

// makeRaw is cfmakeraw(3): every byte is handed on as it comes, and shown as it is.
func makeRaw(m *unix.Termios) {
	m.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	m.Oflag &^= unix.OPOST
	m.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	m.Cflag &^= unix.CSIZE | unix.PARENB
	m.Cflag |= unix.CS8
	m.Cc[unix.VMIN], m.Cc[unix.VTIME] = 1, 0
}
