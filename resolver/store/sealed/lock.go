package sealed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"inject/resolver/secret"
)

// openLocked opens the store file and locks it: shared for reading, exclusively for writing. It
// uses flock, as bbolt does, so that bbolt's own attempt on the same descriptor succeeds at once.
func openLocked(ctx context.Context, o Options) (*os.File, error) {
	flag, how := os.O_RDONLY, unix.LOCK_SH
	if o.Write {
		flag, how = os.O_RDWR, unix.LOCK_EX
	}
	for {
		// O_NONBLOCK, because opening a FIFO would wait for its other end.
		f, err := os.OpenFile(o.Path, flag|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, openError(o.Path, err)
		}

		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = notAFile(o.Path)
		}
		if err == nil {
			err = lock(ctx, f, how, o)
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// While we waited for the lock, another file may have taken the path.
		if now, err := os.Stat(o.Path); err == nil && os.SameFile(info, now) {
			return f, nil
		}
		_ = f.Close()
	}
}

func notAFile(path string) error {
	return secret.WithHint(fmt.Errorf("%w: %s is not a file", secret.ErrInvalid, path),
		"a folder of plain files has the address dir://%s", path)
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err2 := os.Lstat(path); err2 == nil {
			return fmt.Errorf("%w: store file %s is a link to nothing", secret.ErrInvalid, path)
		}
		return err
	case errors.Is(err, fs.ErrPermission):
		return secret.WithHint(fmt.Errorf("%w: store file: %w", secret.ErrDenied, err),
			"the store belongs to the user who made it: see ls -l %s", path)
	case errors.Is(err, unix.EISDIR):
		return notAFile(path)
	}
	return fmt.Errorf("%w: store file: %w", secret.ErrUnavailable, err)
}

// patience is how long lock waits before it says so: most waits are over by then, and of many
// processes that use a store at the same time each would say so.
const patience = 500 * time.Millisecond

// lock locks f. It waits for at most o.LockTimeout, and calls o.Waiting if that takes long.
func lock(ctx context.Context, f *os.File, how int, o Options) error {
	began := time.Now()
	deadline := began.Add(o.LockTimeout)
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("%w: lock %s: %w", secret.ErrUnavailable, o.Path, err)
		}

		held := findHolder(f, o.Path)
		// A server holds the lock for as long as it runs, so waiting is no use.
		if held.Address != "" {
			err := fmt.Errorf("%w: %s is held by %s", secret.ErrUnavailable, o.Path, held)
			end := fmt.Sprintf("end %s first: one process at a time may write a store", held.process())
			if o.Address != "" { // this process would be a second server
				return secret.WithHint(err, "%s", end)
			}
			return secret.WithHint(err, "use its address: --store %s; to use the file itself, %s", held.Address, end)
		}
		if !time.Now().Before(deadline) {
			return secret.WithHint(
				fmt.Errorf("%w: %s is held by %s; waited %v", secret.ErrUnavailable, o.Path, held, o.LockTimeout),
				"try again when it has ended, or wait longer with --lock-timeout")
		}

		if !told && o.Waiting != nil && time.Since(began) >= patience {
			told = true
			o.Waiting(held.String())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s is held by %s: %w", secret.ErrUnavailable, o.Path, held, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A holder is a process that has the file locked.
type holder struct {
	PID     int    `json:"pid"`
	Program string `json:"program"`
	Address string `json:"address"` // where it serves the store; "" if it is not a server
	// Host is the name of its machine or container, whose processes have numbers of their own.
	Host string `json:"host,omitempty"`
}

func (h holder) String() string {
	if h.PID == 0 || h.Program == "" {
		return h.process()
	}
	return fmt.Sprintf("%s (%s)", h.Program, h.process())
}

// process names the process to end.
func (h holder) process() string {
	if h.PID == 0 { // Linux does not tell those of other containers, and other systems tell none
		return "another process"
	}
	if own, err := os.Hostname(); h.Host != "" && err == nil && h.Host != own {
		return fmt.Sprintf("process %d on %.64q", h.PID, h.Host)
	}
	return fmt.Sprintf("process %d", h.PID)
}

// notePath is the path of the note in which a server leaves its address.
func notePath(path string) string { return path + ".holder" }

// writeNote writes the note that this process serves the store at o.Address. Other processes
// believe the note while its file is locked.
func writeNote(o Options) (*os.File, error) {
	host, _ := os.Hostname() // without it the number alone is told
	b, err := json.Marshal(holder{os.Getpid(), filepath.Base(os.Args[0]), o.Address, host})
	if err != nil {
		return nil, err
	}
	_ = os.Remove(notePath(o.Path)) // left by a server that was killed: we hold the store's lock now
	f, err := os.OpenFile(notePath(o.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// readNote returns the note of the server of the store at path, if one is running.
func readNote(path string) (note holder, ok bool) {
	f, err := os.OpenFile(notePath(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return holder{}, false
	}
	defer f.Close() //nolint:errcheck // read only
	if !errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
		return holder{}, false
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return note, err == nil && json.Unmarshal(b, &note) == nil && note.Address != ""
}

// findHolder returns the process that holds the lock on f, as far as the note and the system tell.
func findHolder(f *os.File, path string) holder {
	if note, ok := readNote(path); ok {
		return note
	}
	pids := lockPIDs(f)
	if len(pids) == 0 {
		return holder{}
	}
	return holder{PID: pids[0], Program: programName(pids[0])}
}
