package exec

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"inject/exec/harden"
	"inject/exec/terminal"
)

// The monitor is this program once more, between us and the user's program, when
// that has a terminal of its own and a shell may stop us: it leads the session of
// that terminal. The kernel lets a terminal stop a process (Ctrl-Z) only if
// somebody in the same session could continue it. It is told to, and tells us, by
// a socket; it holds nothing, and its environment is empty.

// monitorName is its first argument, and all by which it is known. The others are
// the descriptors of the socket and of the person's terminal.
const monitorName = "inject-terminal-monitor"

// What the monitor tells us, each with a number.
const (
	msgStarted = 's' // the program's pid
	msgFailed  = 'e' // errno
	msgStopped = 't' // by which signal
	msgEnded   = 'x' // wait status
)

// What we tell the monitor.
const (
	msgForeground = 'f' // continue the program, and its terminal is in its hands
	msgBackground = 'b' // continue the program, and to use its terminal stops it
	msgModes      = 'm' // a [terminal.Modes] follows: what the person's terminal needs if we die
)

// Monitor is the rest of the process if it was started to be a monitor, and reports
// whether it was: the caller then returns. Every program that calls [Run] with a
// Terminal calls it first of all in its main function.
func Monitor() bool {
	if len(os.Args) != 3 || os.Args[0] != monitorName {
		return false
	}
	conn, err := strconv.Atoi(os.Args[1])
	tty, err2 := strconv.Atoi(os.Args[2])
	if err == nil && err2 == nil {
		monitor(conn, tty)
	}
	return true
}

// command is what the monitor starts. It comes by the socket: nobody sees it in
// the monitor's arguments or environment.
type command struct {
	path       string
	args, env  []string
	foreground bool
}

// monitor starts the program, tells what becomes of it, and ends with it.
func monitor(connFd, tty int) {
	runtime.LockOSThread() // so that the program dies if we are killed: see Run
	unix.CloseOnExec(connFd)
	unix.CloseOnExec(tty)
	harden.Process(func(string, ...any) {}) // the program's environment passes through it
	nameMonitor()
	// What a terminal or a person sends to all is the program's to act upon; what we
	// were started with as ignored must stay so for it.
	take(make(chan os.Signal, 1), asksToStop...)
	conn := os.NewFile(uintptr(connFd), "monitor")
	cmd, err := readCommand(conn)
	if err != nil {
		return
	}
	own, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		tellMain(conn, msgFailed, uint32(unix.ENOTTY))
		return
	}
	attr := &syscall.ProcAttr{Env: cmd.env, Files: []uintptr{0, 1, 2}, Sys: childAttr()}
	attr.Sys.Setpgid, attr.Sys.Foreground, attr.Sys.Ctty = true, cmd.foreground, own
	pid, err := syscall.ForkExec(cmd.path, cmd.args, attr) //nolint:gosec // it is what we are for
	if err != nil {
		errno, _ := errors.AsType[syscall.Errno](err)
		tellMain(conn, msgFailed, uint32(errno)) //nolint:gosec // small
		return
	}

	for i := range 3 { // the program's descriptors are not ours to keep open
		_ = dup(own, i)
	}
	closeInherited()
	_ = os.Chdir("/")
	tellMain(conn, msgStarted, uint32(pid)) //nolint:gosec // a pid
	m := &follower{conn: conn, own: own, tty: tty, pid: pid}
	go m.follow()
	m.wait()
}

// wait tells what becomes of the program, until it has ended.
func (m *follower) wait() {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(m.pid, &status, unix.WUNTRACED, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case got == m.pid && status.Stopped():
			tellMain(m.conn, msgStopped, uint32(status.StopSignal())) //nolint:gosec // a signal
		case got == m.pid:
			m.gone.Store(true)
			terminal.BlockSignals()
			// When we, who lead the session, end, the terminal's foreground gets a SIGHUP. What
			// the program left behind must not.
			_ = unix.IoctlSetPointerInt(m.own, unix.TIOCSPGRP, unix.Getpgrp())
			tellMain(m.conn, msgEnded, uint32(status))
			return
		}
	}
}

func tellMain(conn *os.File, what byte, n uint32) {
	_, _ = conn.Write(binary.NativeEndian.AppendUint32([]byte{what}, n))
}

// follower does what we tell the monitor, until we are gone.
type follower struct {
	conn     *os.File
	own, tty int // the program's terminal, the person's
	pid      int
	gone     atomic.Bool // the program is
	modes    terminal.Modes
}

func (m *follower) follow() {
	// Not the thread that has started the program, which would have had this, too.
	runtime.LockOSThread()
	terminal.BlockSignals()
	group := m.pid // that has the terminal when the program is in the foreground
	for {
		var what [1]byte
		if _, err := io.ReadFull(m.conn, what[:]); err != nil {
			if !m.gone.Load() { // else it is we who are ending
				m.modes.Restore(m.tty)
				_ = unix.Kill(-m.pid, unix.SIGKILL)
			}
			return
		}
		now, err := unix.IoctlGetInt(m.own, unix.TIOCGPGRP)
		ours := err == nil && now == unix.Getpgrp()
		switch what[0] {
		case msgModes:
			_ = binary.Read(m.conn, binary.NativeEndian, &m.modes)
			continue
		case msgForeground:
			// A group may have ended since.
			if ours && unix.IoctlSetPointerInt(m.own, unix.TIOCSPGRP, group) != nil {
				_ = unix.IoctlSetPointerInt(m.own, unix.TIOCSPGRP, m.pid)
			}
		case msgBackground:
			if err == nil && !ours {
				group = now
				_ = unix.IoctlSetPointerInt(m.own, unix.TIOCSPGRP, unix.Getpgrp())
			}
		}
		if !m.gone.Load() {
			_ = unix.Kill(-m.pid, unix.SIGCONT)
		}
	}
}

// write sends c: its length, and each of its lists and their strings after its own
// length.
func (c command) write(w io.Writer) error {
	b := make([]byte, 4, 4096)
	length := func(n int) {
		b = binary.NativeEndian.AppendUint32(b, uint32(n)) //nolint:gosec // of what fits into an execve
	}
	foreground := []string{}
	if c.foreground {
		foreground = append(foreground, "")
	}
	for _, list := range [][]string{{c.path}, foreground, c.args, c.env} {
		length(len(list))
		for _, s := range list {
			length(len(s))
			b = append(b, s...)
		}
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)-4)) //nolint:gosec // as above
	_, err := w.Write(b)
	clear(b)
	return err
}

// readCommand receives what write has sent.
func readCommand(r io.Reader) (command, error) {
	var n uint32
	if err := binary.Read(r, binary.NativeEndian, &n); err != nil {
		return command{}, err
	}
	b := make([]byte, n)
	defer clear(b)
	if _, err := io.ReadFull(r, b); err != nil {
		return command{}, err
	}
	rest := b
	length := func() (n int) {
		if len(rest) >= 4 {
			n, rest = int(binary.NativeEndian.Uint32(rest)), rest[4:]
		}
		return min(n, len(rest))
	}
	var lists [4][]string
	for i := range lists {
		for range length() {
			n := length()
			lists[i] = append(lists[i], string(rest[:n]))
			rest = rest[n:]
		}
	}
	if len(lists[0]) != 1 {
		return command{}, io.ErrUnexpectedEOF
	}
	return command{path: lists[0][0], foreground: len(lists[1]) > 0, args: lists[2], env: lists[3]}, nil
}

// monitorError is why there is no monitor. It hides what that is: it is not the
// program's.
type monitorError struct{ err error }

func (e *monitorError) Error() string {
	return "start the leader of the terminal session: " + e.err.Error()
}

// leader is our side of a monitor.
type leader struct {
	conn    *os.File
	program atomic.Int32        // its pid
	first   chan error          // what came of starting the program
	stopped chan syscall.Signal // it was, by that
	done    chan struct{}       // closed when the monitor says no more
	status  *unix.WaitStatus    // how the program ended; valid once done, nil if it was not said
}

// newLeader returns a leader and the socket that is to be the monitor's.
func newLeader() (*leader, int, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, -1, err
	}
	if err := unix.SetNonblock(ours, true); err != nil { // Go's poller reads it
		_, _ = unix.Close(ours), unix.Close(theirs)
		return nil, -1, err
	}
	return &leader{
		conn: os.NewFile(uintptr(ours), "monitor"), first: make(chan error, 1),
		stopped: make(chan syscall.Signal), done: make(chan struct{}),
	}, theirs, nil
}

// socketPair returns a pair that programs do not inherit.
func socketPair() (int, int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return -1, -1, os.NewSyscallError("socketpair", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return fds[0], fds[1], nil
}

// inherit lets programs inherit fd from now on.
func inherit(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return os.NewSyscallError("fcntl", err)
}

// listen hears what the monitor says, to its end.
func (l *leader) listen() {
	defer close(l.done)
	var msg [5]byte
	for {
		if _, err := io.ReadFull(l.conn, msg[:]); err != nil {
			select {
			case l.first <- &monitorError{io.ErrUnexpectedEOF}:
			default:
			}
			return
		}
		n := binary.NativeEndian.Uint32(msg[1:])
		switch msg[0] {
		case msgStarted:
			l.program.Store(int32(n)) //nolint:gosec // a pid
			l.first <- nil
		case msgFailed:
			l.first <- syscall.Errno(n)
		case msgStopped:
			l.stopped <- syscall.Signal(n)
		case msgEnded:
			status := unix.WaitStatus(n)
			l.status = &status
		}
	}
}

// tell tells the monitor to continue the program in the foreground or not.
func (l *leader) tell(what byte) { _, _ = l.conn.Write([]byte{what}) }

// tellModes tells it what the person's terminal needs if we die.
func (l *leader) tellModes(m terminal.Modes) {
	if b, err := binary.Append([]byte{msgModes}, binary.NativeEndian, m); err == nil {
		_, _ = l.conn.Write(b)
	}
}
