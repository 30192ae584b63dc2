// Package watch follows the changes of a file whose contents a server uses: a policy, tokens,
// keys, certificates. It takes a change only if the file can be read and parsed. Otherwise it
// logs why, and the previous contents stay in use, because a mistake in an editor must not
// take a server down.
//
// It knows nothing of what the files hold. A value that is made from several files has a
// parse function for one of them that reads the others itself.
package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

const (
	// MaxSize is the largest file in bytes: that of a Kubernetes ConfigMap or Secret.
	MaxSize = 1 << 20
	// settled is how long a file must stay the same before a change is taken. An editor
	// that truncates and then writes leaves an empty file for a moment, which may well
	// parse.
	settled = 100 * time.Millisecond
	// poll is how often the file is read without an event. There are no events on network
	// file systems, for a file that is mounted alone, and for links into other folders.
	poll = 5 * time.Second
)

// Watched holds the parsed contents of a file. It is safe for concurrent use.
type Watched[T any] struct{ state atomic.Pointer[state[T]] }

type state[T any] struct {
	value T
	err   error
}

// Current returns the contents from the last time that the file could be read and parsed. It
// never blocks. The value is shared, so callers must not change it.
func (w *Watched[T]) Current() T { return w.state.Load().value }

// Err returns why the file's present contents are not Current: it is missing, too large, or
// parse refused it. The error names the file. It is nil if they are.
func (w *Watched[T]) Err() error { return w.state.Load().err }

type noticeKey struct{}

// Notify returns a context with which [Load] calls notice after each change of a file that it
// follows: with its path, and with nil if the change is in use or the reason why it is not.
// A notice of ctx itself is called first. It is called in the file's own goroutine, so it
// must not block for long.
func Notify(ctx context.Context, notice func(path string, err error)) context.Context {
	return context.WithValue(ctx, noticeKey{}, append(noticesOf(ctx), notice))
}

func noticesOf(ctx context.Context) []func(string, error) {
	notices, _ := ctx.Value(noticeKey{}).([]func(string, error))
	return slices.Clip(notices)
}

// Load reads the file at path with parse and follows its changes until ctx ends. It returns
// an error if the file cannot be read, is over [MaxSize], is not a regular file, or parse
// refuses it. After that, such failures go to log and to [Watched.Err], and the previous
// contents stay in use.
//
// A change is noticed within moments if there are events for the file's folder, as when
// kubelet swaps the link to its files, and otherwise within ten seconds. A change of the
// file's mode counts as one. Calls of parse do not overlap. As long as parse refuses the
// file, it is called again with the same bytes, because the reason may be another file. Its
// errors are logged, so they must not contain secrets.
func Load[T any](
	ctx context.Context, path string, parse func([]byte) (T, error), log hclog.Logger,
) (*Watched[T], error) {
	seen, data, err := read(path)
	value, err := taken(path, data, err, parse)
	if err != nil {
		return nil, err
	}
	w := &Watched[T]{}
	w.state.Store(&state[T]{value: value})
	k := &keeper[T]{Watched: w, path: path, parse: parse, log: log, notices: noticesOf(ctx), last: seen}
	events, err := fsnotify.NewWatcher()
	if err != nil { // no more inotify instances for this user
		log.Warn(
			"no events of files, so changes are noticed only by reading the file", "path", path, "every", poll,
			"error", err,
		)
	} else {
		k.events = events
		k.listen()
	}
	go k.run(ctx)
	return w, nil
}

// A snapshot identifies one state of a file.
type snapshot struct {
	sum  [sha256.Size]byte
	mode fs.FileMode
	err  string // why it cannot be read
}

func read(path string) (snapshot, []byte, error) {
	data, mode, err := readFile(path)
	if err != nil {
		return snapshot{err: err.Error()}, nil, err
	}
	return snapshot{sum: sha256.Sum256(data), mode: mode}, data, nil
}

func readFile(path string) ([]byte, fs.FileMode, error) {
	// O_NONBLOCK, because opening a named pipe would otherwise wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, 0, err
	}
	defer f.Close() //nolint:errcheck // read only
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, 0, err
	}
	if len(data) > MaxSize {
		return nil, 0, fmt.Errorf("%s: larger than %d bytes", path, MaxSize)
	}
	return data, info.Mode(), nil
}

// taken returns the parsed data, or why it cannot be used.
func taken[T any](path string, data []byte, err error, parse func([]byte) (T, error)) (T, error) {
	var none T
	if err != nil {
		return none, err // it names the file
	}
	value, err := parse(data)
	if err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return value, nil
}

// A keeper updates a Watched.
type keeper[T any] struct {
	*Watched[T]

	path    string
	parse   func([]byte) (T, error)
	log     hclog.Logger
	notices []func(path string, err error)
	events  *fsnotify.Watcher // nil if there are no events
	last    snapshot          // the one that was taken or refused last
	next    snapshot          // the one to take if the file stays the same
	deaf    string            // the last logged reason why the folder has no events
}

// listen asks for the events of the folder, because those of the file end when it is
// replaced.
func (k *keeper[T]) listen() {
	err := k.events.Add(filepath.Dir(k.path))
	if err == nil {
		k.deaf = ""
		return
	}
	if k.deaf != err.Error() {
		k.deaf = err.Error()
		k.log.Warn(
			"no events of the folder, so changes are noticed only by reading the file", "path", k.path, "every",
			poll, "error", err,
		)
	}
}

func (k *keeper[T]) run(ctx context.Context) {
	var events chan fsnotify.Event
	var lost chan error
	if k.events != nil {
		defer k.events.Close() //nolint:errcheck // it is no longer needed
		events, lost = k.events.Events, k.events.Errors
	}
	every := time.NewTicker(poll)
	defer every.Stop()
	// The first check finds changes from before there were events.
	soon := time.NewTimer(settled)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			soon.Reset(settled)
			continue
		case <-lost: //nolint:errcheck // most likely an overflow, which may have dropped an event for the file
			soon.Reset(settled)
			continue
		case <-every.C:
			if k.events != nil && len(k.events.WatchList()) == 0 { // the folder was replaced
				k.listen()
			}
		case <-soon.C:
		}
		if k.check() {
			soon.Reset(settled)
		}
	}
}

// check reads the file and takes a change. It reports whether it must be called again soon.
func (k *keeper[T]) check() (again bool) {
	now, data, err := read(k.path)
	old := k.state.Load()
	switch {
	case now == k.last && old.err == nil:
		k.next = now
		return false
	case now != k.last && now != k.next:
		k.next = now
		return true
	}
	k.last, k.next = now, now
	value, err := taken(k.path, data, err, k.parse)
	if err != nil {
		k.state.Store(&state[T]{value: old.value, err: err})
		if old.err == nil || old.err.Error() != err.Error() { // otherwise it is known already
			k.log.Error("the file cannot be used; its previous contents stay in use", "path", k.path, "error", err)
			k.notify(err)
		}
		return false
	}
	k.state.Store(&state[T]{value: value})
	k.log.Info("the changed file is in use", "path", k.path)
	k.notify(nil)
	return false
}

func (k *keeper[T]) notify(err error) {
	for _, notice := range k.notices {
		notice(k.path, err)
	}
}
