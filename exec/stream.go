package exec

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is one pipe, or a pseudo-terminal, from the program to a writer. Its goroutine waits in
// poll(2) and not in Go's poller: so each chunk wakes one thread and not two.
type stream struct {
	child    *os.File // the program's end
	terminal bool
	person   bool // dst is a terminal, for which the program has a pipe instead of a pseudo-terminal
	dst      io.Writer
	to       int  // the descriptor that dst writes to in the end; -1 if it is not known
	lastUse  bool // no other stream writes to that descriptor
	full     int  // how many reads returned at least half of a default pipe's capacity
	done     chan struct{}
	err      error // of dst, or of reading; valid once done

	mu      sync.Mutex // held while bytes are read and counted, so that both happen in one step
	pipe    int        // our end, which is non-blocking; -1 once closed
	wake    int        // the read end of another pipe, which ends poll(2) when leave closes waker
	waker   int        // the write end of that pipe; -1 once closed
	taken   int64      // bytes read from the program
	written int64      // bytes written to dst
	last    time.Time  // of the last write to dst
}

// The capacity of a pipe that is often full is raised, and so is that of the pipe that its output
// goes to. It is not raised before, because the pipes of one user have a common limit
// (pipe-user-pages-soft in proc(5)), and most programs write little.
const (
	halfPipe = 32 << 10
	busy     = 8
)

// newPipe returns a stream through a pipe.
func newPipe(dst io.Writer, to *os.File) (*stream, error) {
	data := [2]int{-1, -1}
	if err := pipe(&data); err != nil {
		return nil, err
	}
	st, err := newStream(dst, os.NewFile(uintptr(data[1]), "pipe"), data[0])
	if err == nil && to != nil {
		st.to = int(to.Fd())
	}
	return st, err
}

// newStream returns a stream that reads from ours, the other side of child. It closes both when it
// ends, and newStream itself closes them if it fails.
func newStream(dst io.Writer, child *os.File, ours int) (*stream, error) {
	wake := [2]int{-1, -1}
	err := unix.SetNonblock(ours, true)
	if err == nil {
		err = pipe(&wake)
	}
	if err != nil {
		_, _ = child.Close(), unix.Close(ours)
		return nil, err
	}
	return &stream{
		child: child, dst: dst, to: -1, done: make(chan struct{}),
		pipe: ours, wake: wake[0], waker: wake[1],
	}, nil
}

// pipe makes a pipe whose ends are close-on-exec.
func pipe(fds *[2]int) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := syscall.Pipe(fds[:]); err != nil {
		return os.NewSyscallError("pipe", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	return nil
}

// copy copies the pipe to the writer until the pipe ends or the writer fails.
func (st *stream) copy() {
	defer close(st.done)
	_, err := io.Copy(st.dst, st)
	if st.person && errors.Is(err, unix.EIO) {
		// The terminal is gone. On a terminal the program would live on, and its writes would fail.
		_, err = io.Copy(io.Discard, st)
	}
	if !errors.Is(err, errLeft) {
		st.err = err
	}
	// Close at once, so that the program gets a SIGPIPE when its output goes nowhere.
	st.close()
	if c, ok := st.dst.(io.Closer); ok {
		if err := c.Close(); st.err == nil {
			st.err = err
		}
	}
	if st.lastUse && st.to >= 0 {
		nothing(st.to)
	}
}

// Read reads from the pipe and counts the bytes in the same step, so that every byte is either in
// the pipe or counted: owed relies on it. When Read is called again, io.Copy has written what the
// last call returned.
func (st *stream) Read(buf []byte) (int, error) {
	st.mu.Lock()
	if st.written != st.taken {
		st.written, st.last = st.taken, time.Now()
	}
	st.mu.Unlock()
	for {
		n, err := st.take(buf)
		switch {
		case n > 0:
			if n >= halfPipe && st.full < busy {
				if st.full++; st.full == busy {
					widen(st.pipe)
					widen(st.to)
				}
			}
			return n, nil
		case err == nil:
			err = io.EOF
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			fds := []unix.PollFd{
				{Fd: int32(st.pipe), Events: unix.POLLIN}, //nolint:gosec // a descriptor
				{Fd: int32(st.wake), Events: unix.POLLIN}, //nolint:gosec // a descriptor
				{Fd: int32(st.to)},                        //nolint:gosec // the same, for its errors; or -1, for none
			}
			_, err = unix.Poll(fds, -1)
			if err == nil && fds[2].Revents&unix.POLLERR != 0 && fds[0].Revents&unix.POLLIN == 0 {
				return 0, unix.EPIPE // the error that the next write would return
			}
			if err == nil || errors.Is(err, unix.EINTR) {
				continue
			}
		}
		return 0, err
	}
}

var errLeft = errors.New("left while it was open")

func (st *stream) take(buf []byte) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.waker < 0 {
		return 0, errLeft
	}
	n, err := unix.Read(st.pipe, buf)
	if st.terminal && errors.Is(err, unix.EIO) { // no process has the other end open any more
		return 0, nil
	}
	st.taken += int64(max(n, 0))
	return n, err
}

// leave ends the stream even if a process still writes to it.
func (st *stream) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.waker >= 0 {
		_ = unix.Close(st.waker)
		st.waker = -1
	}
}

// close closes our descriptors.
func (st *stream) close() {
	st.leave()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.pipe >= 0 {
		_, _ = unix.Close(st.pipe), unix.Close(st.wake)
		st.pipe = -1
	}
}

// owed returns how many bytes have been put into the pipe since the start.
func (st *stream) owed() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	waiting := 0
	if st.pipe >= 0 {
		waiting, _ = unix.IoctlGetInt(st.pipe, fionread)
	}
	return st.taken + int64(waiting)
}

// progress returns how many bytes were written to the destination, and when the last write ended.
func (st *stream) progress() (int64, time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.written, st.last
}

// ended waits for the end of the stream, at most d, and reports whether it came.
func (st *stream) ended(d time.Duration) bool {
	select {
	case <-st.done:
		return true
	case <-time.After(d):
		return false
	}
}

// error returns the error that ended the stream. It is nil while the stream has not ended.
func (st *stream) error() error {
	select {
	case <-st.done:
		return st.err
	default:
		return nil
	}
}
