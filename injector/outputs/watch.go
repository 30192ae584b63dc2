package outputs

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"inject/injector/outputs/content"
)

const (
	// settled is how long a file must not have changed before it is looked at early.
	settled = time.Second
	// What is waited for and known is bounded: it is only a help.
	maxWatched = 4096
	maxKnown   = 100_000
)

// Watch looks at files in the folder as they settle, while the task still runs, so that
// there is less to do in the end. It is a help and decides nothing: Check looks again
// at whatever is not exactly as it was seen here. It returns at once; stop ends it.
//
// A program may change a file by way of memory (mmap), which changes the file's times
// only when a page is written to for the first time since it was last on the disk. So a
// file is synced before it is looked at, and on file systems where that does not hold
// nothing is known of it.
func (f *Folder) Watch(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.known = f.watch(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// watch returns what is known when ctx ends.
func (f *Folder) watch(ctx context.Context) map[signature]bool {
	root, err := unix.Open(f.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil || !tellsChanges(root) {
		return nil
	}
	defer unix.Close(root) //nolint:errcheck // a folder
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	defer events.Close() //nolint:errcheck // it has done its work
	w := watcher{
		folder: f, root: root, events: events, changed: map[string]time.Time{},
		seen: map[string]signature{}, known: map[signature]bool{},
		in: content.NewInspector(f.redactor),
	}
	w.add(f.path)
	tick := time.NewTicker(settled / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			w.last()
			return w.known
		case err := <-events.Errors:
			if err != nil { // some were lost, so what is known may be old
				return nil
			}
		case e := <-events.Events:
			w.event(e)
		case <-tick.C:
			w.look(ctx)
		}
	}
}

type watcher struct {
	folder  *Folder
	root    int
	events  *fsnotify.Watcher
	folders int
	changed map[string]time.Time // files, and when they last did
	seen    map[string]signature // of those that are known, by their path
	known   map[signature]bool
	in      *content.Inspector
}

// add watches dir and the folders below it.
func (w *watcher) add(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || w.folders >= maxWatched:
			return fs.SkipAll
		case d.IsDir():
			w.folders++
			if w.events.Add(path) != nil { // there are no more, or it is gone
				return fs.SkipAll
			}
		case d.Type().IsRegular():
			w.note(path)
		}
		return nil
	})
}

// note notes that a file changes. A long write changes its times as it begins, so what was
// seen in the middle of one may have the times that it has in the end.
func (w *watcher) note(path string) {
	w.forget(path)
	if len(w.changed) < maxWatched {
		w.changed[path] = time.Now()
	}
}

func (w *watcher) forget(path string) {
	if s, ok := w.seen[path]; ok {
		delete(w.known, s)
		delete(w.seen, path)
	}
}

// last takes the events that are on their way: whoever has caused them has ended.
func (w *watcher) last() {
	for end := time.After(time.Second); ; {
		select {
		case e := <-w.events.Events:
			w.event(e)
		case <-time.After(20 * time.Millisecond):
			return
		case <-end: // too many: nothing is known
			clear(w.known)
			return
		}
	}
}

func (w *watcher) event(e fsnotify.Event) {
	switch {
	case e.Has(fsnotify.Create):
		if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
			w.add(e.Name)
			return
		}
		w.note(e.Name)
	case e.Has(fsnotify.Remove), e.Has(fsnotify.Rename):
		delete(w.changed, e.Name)
	default:
		w.note(e.Name)
	}
}

// look looks at the files that have settled.
func (w *watcher) look(ctx context.Context) {
	for path, last := range w.changed {
		if ctx.Err() != nil || len(w.known) >= maxKnown {
			return
		}
		if time.Since(last) < settled {
			continue
		}
		delete(w.changed, path)
		if rel, err := filepath.Rel(w.folder.path, path); err == nil && filepath.IsLocal(rel) {
			w.file(ctx, rel)
		}
	}
}

// file looks at the file at rel, and remembers it if nothing is in it.
func (w *watcher) file(ctx context.Context, rel string) {
	fd, err := openAt(w.root, rel, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close() //nolint:errcheck // read only
	_, unsynced, err := stat(fd)
	if err != nil || unsynced.mode&unix.S_IFMT != unix.S_IFREG || !tellsChanges(fd) {
		return
	}
	st, before, err := stat(fd)
	if err != nil || before != unsynced {
		return // it is being written to
	}
	// A second change in the same tick of the clock of files would not show.
	if time.Since(time.Unix(before.changed.Unix())) < settled/2 {
		w.note(filepath.Join(w.folder.path, rel))
		return
	}
	seen, err := inspectFile(ctx, w.in, filepath.Base(rel), f, st)
	if err != nil || len(seen.Found) > 0 || seen.Unchecked {
		delete(w.known, before) // it has another name, perhaps
		return
	}
	if _, now, err := stat(fd); err == nil && now == before {
		w.known[before], w.seen[filepath.Join(w.folder.path, rel)] = true, before
	}
}

// openAt opens what is at rel below root, one name after the other.
func openAt(root int, rel string, last int) (int, error) {
	dir := root
	for {
		name, rest, more := strings.Cut(rel, string(filepath.Separator))
		flags := last
		if more {
			flags = passing
		}
		fd, err := openBeneath(dir, name, flags)
		if dir != root {
			_ = unix.Close(dir)
		}
		if err != nil || !more {
			return fd, err
		}
		dir, rel = fd, rest
	}
}
