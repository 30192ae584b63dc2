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

// The monitor is a second process of this binary, between us and the user's program. It exists if
// the program has a pseudo-terminal and a shell may stop us. It leads the session of the
// pseudo-terminal, because the kernel lets a terminal stop a process (Ctrl-Z) only if another
// process of its session could continue it. A socket connects it with us. It keeps no files open,
// and its environment is empty.

// monitorName is the first argument of a monitor, by which it knows that it is one. The other two
// are the descriptors of the socket and of the person's terminal.
const monitorName = "inject-terminal-monitor"

// The messages from the monitor to us. A number of four bytes follows each.
const (
	msgStarted = 's' // the program has started; its process ID
	msgFailed  = 'e' // the program could not be started; the errno
	msgStopped = 't' // the program was stopped; the signal
	msgEnded   = 'x' // the program has ended; its wait status
)

// The messages from us to the monitor.
const (
	msgForeground = 'f' // continue the program in the foreground of its pseudo-terminal
	msgBackground = 'b' // continue it in the background: reading its terminal will stop it
	msgModes      = 'm' // a [terminal.Modes] follows, which restores the person's terminal if we die
)

// Monitor does the work of a monitor if this process was started to be one, and reports whether
// it was. The caller then returns from main. A program that calls [Run] with a Terminal calls
// Monitor first in its main function.
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

// command is the program that the monitor starts. We send it through the socket, so that it does
// not show in the monitor's arguments or environment.
type command struct {
	path       string
	args, env  []string
	foreground bool
}

// monitor starts the program, reports its state to us, and ends when the program has ended.
func monitor(connFd, tty int) {
	runtime.LockOSThread() // for the parent-death signal, as in start
	unix.CloseOnExec(connFd)
	unix.CloseOnExec(tty)
	harden.Process(func(string, ...any) {}) // it receives the program's environment
	nameMonitor()
	// A terminal or a person may send these to the monitor, too. They are for the program, so the
	// monitor takes and drops them. It must not ignore them, because the program would inherit
	// that.
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
	// Interactive bash ignores these in what it substitutes, as $(inject -- …). If the program
	// inherited that, its read of the terminal in the background would fail instead of telling us,
	// by stopping it, that it needs the terminal.
	defaultAction(unix.SIGTTIN)
	defaultAction(unix.SIGTTOU)
	attr := &syscall.ProcAttr{Env: cmd.env, Files: []uintptr{0, 1, 2}, Sys: childAttr()}
	attr.Sys.Setpgid, attr.Sys.Foreground, attr.Sys.Ctty = true, cmd.foreground, own
	pid, err := syscall.ForkExec(cmd.path, cmd.args, attr) //nolint:gosec // the caller's program
	if err != nil {
		errno, _ := errors.AsType[syscall.Errno](err)
		tellMain(conn, msgFailed, uint32(errno)) //nolint:gosec // small
		return
	}

	for i := range 3 { // the monitor must not keep the program's descriptors open
		_ = dup(own, i)
	}
	closeInherited()
	_ = os.Chdir("/")
	tellMain(conn, msgStarted, uint32(pid)) //nolint:gosec // a pid
	m := &follower{conn: conn, own: own, tty: tty, pid: pid}
	go m.follow()
	m.wait()
}

// wait reports each change of the program's state to us, until the program has ended.
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
			// When the leader of a session ends, the foreground group of its terminal gets a
			// SIGHUP. That must not be the program's group, where processes may be left.
			_ = unix.IoctlSetPointerInt(m.own, unix.TIOCSPGRP, unix.Getpgrp())
			tellMain(m.conn, msgEnded, uint32(status))
			return
		}
	}
}

func tellMain(conn *os.File, what byte, n uint32) {
	_, _ = conn.Write(binary.NativeEndian.AppendUint32([]byte{what}, n))
}

// follower is the part of the monitor that follows our messages until we are gone.
type follower struct {
	conn     *os.File
	own, tty int // the pseudo-terminal, and the person's terminal
	pid      int
	gone     atomic.Bool // the program has ended
	modes    terminal.Modes
}

func (m *follower) follow() {
	// This is not the thread that started the program, which would have inherited the blocked
	// signals.
	runtime.LockOSThread()
	terminal.BlockSignals()
	group := m.pid // the group that gets the terminal in the foreground
	for {
		var what [1]byte
		if _, err := io.ReadFull(m.conn, what[:]); err != nil {
			if !m.gone.Load() { // we are gone, and not the program
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
			// The group may have ended since.
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

// write sends c. The format is the length of all, and then each list as its number of strings and
// each string after its length. Every length has four bytes, in the machine's byte order.
func (c command) write(w io.Writer) error {
	b := make([]byte, 4, 4096)
	length := func(n int) {
		b = binary.NativeEndian.AppendUint32(b, uint32(n)) //nolint:gosec // it fits into an execve
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

// readCommand receives a command that write has sent.
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

// monitorError says why the monitor could not be started. It does not unwrap, so that startError
// does not take the cause for the program's own.
type monitorError struct{ err error }

func (e *monitorError) Error() string {
	return "start the leader of the terminal session: " + e.err.Error()
}

// leader is our side of a monitor.
type leader struct {
	conn    *os.File
	program atomic.Int32        // the program's process ID
	first   chan error          // the result of starting the program
	stopped chan syscall.Signal // receives each signal that has stopped the program
	done    chan struct{}       // closed when the monitor has sent its last message
	status  *unix.WaitStatus    // how the program ended; valid once done, nil if the monitor did not say
}

// newLeader returns a leader and the monitor's end of the socket.
func newLeader() (*leader, int, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, -1, err
	}
	if err := unix.SetNonblock(ours, true); err != nil { // for Go's poller
		_, _ = unix.Close(ours), unix.Close(theirs)
		return nil, -1, err
	}
	return &leader{
		conn: os.NewFile(uintptr(ours), "monitor"), first: make(chan error, 1),
		stopped: make(chan syscall.Signal), done: make(chan struct{}),
	}, theirs, nil
}

// socketPair returns two connected sockets that are close-on-exec.
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

// inherit makes programs inherit fd from now on.
func inherit(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return os.NewSyscallError("fcntl", err)
}

// listen receives the monitor's messages until the socket ends.
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

// tell sends msgForeground or msgBackground to the monitor.
func (l *leader) tell(what byte) { _, _ = l.conn.Write([]byte{what}) }

// tellModes sends the monitor the modes that the person's terminal needs if we die.
func (l *leader) tellModes(m terminal.Modes) {
	if b, err := binary.Append([]byte{msgModes}, binary.NativeEndian, m); err == nil {
		_, _ = l.conn.Write(b)
	}
}
