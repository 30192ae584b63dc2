package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"inject/internal/durable"
	"inject/resolver/secret"
	"inject/resolver/store/sealed/page"
)

// snapshot runs fn as view does, with the meta page of its transaction and, in head,
// both meta pages as they are in the file. They must be whole, and are looked at while
// nobody writes one. fn may take its time: others write and read meanwhile.
func (f *openFile) snapshot(fn func(t *tx, m page.Meta, head []byte) error) error {
	f.writing.Lock()
	begun := sync.OnceFunc(f.writing.Unlock)
	defer begun()
	return f.view(func(t *tx) error {
		m, head, err := f.readHead()
		begun()
		if err == nil && m.TxID != t.id {
			err = damaged("its meta pages are not those that were written last")
		}
		if err != nil {
			return err
		}
		return fn(t, m, head)
	})
}

// readHead returns the current meta page, and both as they are in the file.
func (f *openFile) readHead() (m page.Meta, head []byte, err error) {
	info, err := f.file.Stat()
	if err != nil {
		return page.Meta{}, nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	head = make([]byte, 2*f.meta.PageSize)
	if _, err := f.file.ReadAt(head, 0); err != nil {
		return page.Meta{}, nil, damaged("the file is cut short")
	}
	m, err = page.ReadMetas(bytes.NewReader(head), info.Size())
	return m, head, err
}

// chunk is how many bytes are copied at once.
const chunk = 1 << 20

// copyTo copies what the file holds now to the new file to. Free pages, which may
// hold what was deleted, are not copied.
func (f *openFile) copyTo(ctx context.Context, to *os.File) error {
	return f.snapshot(func(_ *tx, m page.Meta, head []byte) error {
		used, err := page.Survey(ctx, f.file, m, bucketName, func([]byte) {})
		if err != nil {
			return err
		}
		if _, err := to.WriteAt(head, 0); err != nil {
			return err
		}

		buf := make([]byte, chunk)
		pages := uint64(chunk / m.PageSize) //nolint:gosec // a power of two of at most 64 KiB
		for id := uint64(2); id < m.Pages; {
			end := used.End(id, min(m.Pages, id+pages))
			if used.Has(id) {
				if err := ctx.Err(); err != nil {
					return err
				}
				at, b := int64(id)*m.PageSize, buf[:int64(end-id)*m.PageSize] //nolint:gosec // inside the file
				if _, err := f.file.ReadAt(b, at); err != nil {
					return damaged("the file is cut short")
				}
				if _, err := to.WriteAt(b, at); err != nil {
					return err
				}
			}
			id = end
		}
		return to.Truncate(int64(m.Pages) * m.PageSize) //nolint:gosec // inside the file
	})
}

// wipeFree overwrites what is in the file beside what it holds now. Nobody may read
// or write it meanwhile.
func (f *openFile) wipeFree() error {
	m, _, err := f.readHead()
	if err != nil {
		return err
	}
	used, err := page.Survey(context.Background(), f.file, m, bucketName, func([]byte) {})
	if err != nil {
		return err
	}

	zeros := make([]byte, chunk)
	pages := uint64(chunk / m.PageSize) //nolint:gosec // as in copyTo
	for id := uint64(2); id < m.Pages; {
		end := used.End(id, min(m.Pages, id+pages))
		if !used.Has(id) {
			at, b := int64(id)*m.PageSize, zeros[:int64(end-id)*m.PageSize] //nolint:gosec // inside the file
			if _, err := f.file.WriteAt(b, at); err != nil {
				return err
			}
		}
		id = end
	}
	return f.file.Sync()
}

// existing is the path of a file that is there and must not be.
type existing string

func (e existing) Error() string { return string(e) + " exists already" }
func (existing) Unwrap() error   { return secret.ErrExists }

var errNoFile = secret.WithHint(fmt.Errorf("%w: the store has no file yet", secret.ErrInvalid),
	"the first secret that is created makes it")

// Backup copies the store, as it is when Backup begins, to the new file to: sealed
// as it is, readable by its owner only. It opens with the key that the store has
// now, and for reading as it stands; Restore makes a store of it again. Deleted
// secrets, and what other keys opened, are not in it. Others read and write
// meanwhile; what they free is used again only when Backup has ended, and where a
// store of over a GiB grows past another, they wait for it.
//
// The file to appears whole, and durable, or not at all. It is an error that wraps
// [secret.ErrExists] if there is one already, [secret.ErrInvalid] if the store has no
// file yet, [secret.ErrCorrupt] if its pages are damaged, and
// [secret.ErrUnavailable] if to cannot be written. What is sealed is not opened:
// see Verify.
func (s *Store) Backup(ctx context.Context, to string) error {
	s.long.RLock()
	defer s.long.RUnlock()
	err := ctx.Err()
	if err == nil {
		err = vacant(to)
	}
	if err == nil {
		err = s.use(ctx, errNoFile, func() error {
			return s.copyError(to, durable.Create(to, func(temp string) error {
				return durable.WriteNew(temp, func(f *os.File) error { return s.copyTo(ctx, f) })
			}))
		})
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// vacant returns an error if there is something at path.
func vacant(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return existing(path)
	}
	return nil // or it will not be made, which tells why
}

// copyError says what err is that came of copying s to the file to.
func (s *Store) copyError(to string, err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrExist):
		return existing(to)
	case errors.Is(err, secret.ErrCorrupt), errors.Is(err, secret.ErrUnavailable):
		return fileError(s.o.Path, err)
	}
	return secret.WithHint(fmt.Errorf("%w: %w", secret.ErrUnavailable, err),
		"see that %s can be written and has room", filepath.Dir(to))
}

// Restore makes a store at o.Path of the backup file from, with o.Key, and returns
// how many secrets it has. All of the copy is opened before it is put there, whole
// and durable: a backup that is damaged, cut short ([secret.ErrCorrupt]) or of
// another key ([secret.ErrDenied]) changes nothing. While that is done the new store is
// locked for this process alone. If there is a file at o.Path the error
// wraps [secret.ErrExists]; if a process still serves the store that was
// there, [secret.ErrUnavailable]. o.Write and o.Address do not matter.
//
// Whoever has a file open keeps it when it is moved away: end everything that
// uses a store before its file is replaced.
func Restore(ctx context.Context, o Options, from string) (secrets int, err error) {
	if secrets, err = restore(ctx, o, from); err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	return secrets, nil
}

func restore(ctx context.Context, o Options, from string) (secrets int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := vacant(o.Path); err != nil {
		return 0, secret.WithHint(err, "end what uses it and move it away first: a backup is never put over a store")
	}

	if held, ok := readNote(o.Path); ok {
		return 0, secret.WithHint(
			fmt.Errorf("%w: the store that was at %s is still held by %s", secret.ErrUnavailable, o.Path, held),
			"end it first: it would go on with the file that was moved away")
	}

	backup := &Store{o: o}
	backup.o.Path, backup.o.Write, backup.o.Address = from, false, ""
	switch err := backup.open(ctx); {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("%w: there is no file %s", secret.ErrInvalid, from)
	case err != nil:
		return 0, err
	}
	defer backup.Close() //nolint:errcheck // read only

	// The copy is opened as who writes does, so that its lock is ours until it is durable.
	restored := &Store{o: backup.o, made: backup.made}
	restored.o.Write = true
	defer restored.Close() //nolint:errcheck // nothing was written
	err = durable.Create(o.Path, func(temp string) error {
		if err := durable.WriteNew(temp, func(f *os.File) error { return backup.copyTo(ctx, f) }); err != nil {
			return err
		}
		restored.o.Path = temp
		err := restored.open(ctx)
		if err == nil {
			secrets, err = restored.verify(ctx)
		}
		return err
	})
	return secrets, backup.copyError(o.Path, err)
}

// Rewrap makes another key open the store: to, and no longer the one that did. The
// key file of to is made if it is not there, as for a new store, and durable before
// anything is changed, so that a power cut leaves a store that the old key opens or
// the new one. That is done in one transaction; nothing that is stored is sealed
// again, and the open Store goes on. Others wait meanwhile, and it waits for a Backup
// and a Verify.
//
// The data key stays the same, and who has seen it, or has an old copy of the file and
// the old key, can still read what is sealed with it. In the file itself the pages that
// the old key opens are overwritten, which reaches neither what the file system and
// the disk keep of them (snapshots, a journal, flash memory) nor backups. If that
// fails the error says so; the key has been changed by then. A store that has no file
// yet is [secret.ErrInvalid].
func (s *Store) Rewrap(ctx context.Context, to Key) error {
	if err := s.rewrap(ctx, to); err != nil {
		return fmt.Errorf("rewrap: %w", err)
	}
	return nil
}

func (s *Store) rewrap(ctx context.Context, to Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.o.Write {
		return errReading
	}

	var key []byte
	if err := s.use(ctx, errNoFile, func() error { key = s.made.key; return nil }); err != nil {
		return err
	}

	made, err := to.wrap(key, "the store from now on")
	if err == nil {
		err = ctx.Err() // a person may have been asked
	}
	if err != nil {
		return err
	}

	s.long.Lock() // first: who waits for s.mu keeps out those who read
	defer s.long.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.openFile == nil {
		return errClosed
	}

	err = s.update(ctx, func(t *tx) error {
		if err := t.put(wrappedKey, made.wrapped); err != nil {
			return err
		}
		return t.index.SetAll(nil) // the root is of every transaction
	})
	if wrapped, err := s.wrapped(); err == nil && bytes.Equal(wrapped, made.wrapped) {
		s.made = made // even if the commit seems to have failed
	}
	if err != nil {
		return fileError(s.o.Path, err)
	}

	if err := s.guard(s.wipeFree); err != nil {
		if !errors.Is(err, secret.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
		}
		return fileError(s.o.Path,
			fmt.Errorf("the new key opens it, but the pages that the old one opens could not be overwritten: %w", err))
	}
	return nil
}
