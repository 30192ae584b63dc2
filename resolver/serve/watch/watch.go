// Package watch keeps what is made of a file current while the file changes: a
// policy, tokens, keys, certificates. It takes a change only when it can be
// read and parsed; else it says why and what was read before stays, because a
// mistake in an editor must not take a service down.
//
// It knows nothing of what the files hold. A value that belongs to several files
// is parsed from one of them by a parse that reads the others itself.
package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/hashicorp/go-hclog"
)

const (
	// MaxSize is the largest file in bytes that is read: that of a Kubernetes
	// ConfigMap or Secret.
	MaxSize = 1 << 20
	// settled is how long a file must have stayed the same before a change of it is
	// taken: an editor that truncates and then writes has an empty file in between,
	// which could well parse.
	settled = 100 * time.Millisecond
	// poll is how often the file is looked at without an event. Network file systems,
	// files mounted alone and links into other folders have none.
	poll = 5 * time.Second
)

// Watched is what [Load] has made of a file. Several goroutines may use it.
type Watched[T any] struct{ state atomic.Pointer[state[T]] }

type state[T any] struct {
	value T
	err   error
}

// Current returns what parse has made of the file as it last was when it could be
// read and parsed. It never blocks. What it returns is shared and not to be changed.
func (w *Watched[T]) Current() T { return w.state.Load().value }

// Err returns why the file as it is now is not Current: it is gone, too large, or
// refused by parse. It is nil if it is Current, and names the file.
func (w *Watched[T]) Err() error { return w.state.Load().err }

// Load reads path with parse and keeps it current until ctx ends. It fails when the
// file cannot be read, is over [MaxSize], is not a regular file or is refused by parse.
// Later such failures go to log and to [Watched.Err], and what was read before stays.
//
// A change is noticed within moments where the file's folder tells of it, as when
// kubelet swaps the link that its files are behind, and within ten seconds where not.
// A change of the file's mode counts as one. Parse is called by one goroutine at a time;
// with the same bytes again for as long as it refuses them, since that may be because of
// another file. Its errors are logged, so they must hold no secret; the file is named.
func Load[T any](ctx context.Context, path string, parse func([]byte) (T, error), log hclog.Logger) (*Watched[T], error) {
	seen, data, err := read(path)
	value, err := taken(path, data, err, parse)
	if err != nil {
		return nil, err
	}
	w := &Watched[T]{}
	w.state.Store(&state[T]{value: value})
	k := &keeper[T]{Watched: w, path: path, parse: parse, log: log, last: seen}
	events, err := fsnotify.NewWatcher()
	if err != nil { // no more inotify instances for this user
		log.Warn("no events of files, so changes are noticed by looking", "path", path, "every", poll, "error", err)
	} else {
		k.events = events
		k.listen()
	}
	go k.run(ctx)
	return w, nil
}

// A snapshot is what tells one state of a file from another.
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
	// O_NONBLOCK, because to open a pipe would otherwise wait for its writer.
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

// taken returns what parse makes of what has been read, or why nothing can be.
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

// A keeper keeps a Watched current.
type keeper[T any] struct {
	*Watched[T]

	path   string
	parse  func([]byte) (T, error)
	log    hclog.Logger
	events *fsnotify.Watcher // nil where there is none
	last   snapshot          // what was last taken or refused
	next   snapshot          // what is to be taken if it stays
	deaf   string            // why the folder cannot be listened to, as it was last said
}

// listen asks for the events of the folder, not of the file: a file that is replaced
// takes its events with it.
func (k *keeper[T]) listen() {
	err := k.events.Add(filepath.Dir(k.path))
	if err == nil {
		k.deaf = ""
		return
	}
	if k.deaf != err.Error() {
		k.deaf = err.Error()
		k.log.Warn("no events of the folder, so changes are noticed by looking", "path", k.path, "every", poll, "error", err)
	}
}

func (k *keeper[T]) run(ctx context.Context) {
	var events chan fsnotify.Event
	var lost chan error
	if k.events != nil {
		defer k.events.Close() //nolint:errcheck // it has done its work
		events, lost = k.events.Events, k.events.Errors
	}
	every := time.NewTicker(poll)
	defer every.Stop()
	// The first check is for what has changed before there were events.
	soon := time.NewTimer(settled)
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			soon.Reset(settled)
			continue
		case <-lost: //nolint:errcheck // an overflow, most likely: some event of ours may have been in it
			soon.Reset(settled)
			continue
		case <-every.C:
			if k.events != nil && len(k.events.WatchList()) == 0 { // the folder is another
				k.listen()
			}
		case <-soon.C:
		}
		if k.check() {
			soon.Reset(settled)
		}
	}
}

// check takes what the file is now, and reports whether it is to be called again soon.
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
		if old.err == nil || old.err.Error() != err.Error() { // else it has been said
			k.log.Error("the file is not used as it is now; what was read of it before stays", "path", k.path, "error", err)
		}
		k.state.Store(&state[T]{value: old.value, err: err})
		return false
	}
	k.state.Store(&state[T]{value: value})
	k.log.Info("the file has changed and is used as it is now", "path", k.path)
	return false
}
