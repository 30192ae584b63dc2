package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"inject/internal/durable"
	"inject/resolver/secret"
	"inject/resolver/store/sealed/page"
)

// snapshot calls fn in a read transaction, with the meta page of that transaction and, in head,
// both meta pages as they are in the file. They are read while no transaction writes them, and
// must be whole. fn may take long: changes and other reads go on meanwhile.
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

// readHead returns the current meta page and, in head, both meta pages as they are in the file.
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

// chunk is how many bytes are copied or overwritten at once.
const chunk = 1 << 20

// A target takes a copy of a file. Its parts are written in order, and zeros are between them.
type target interface {
	io.WriterAt
	Truncate(size int64) error
}

// stream is a target that writes the copy from its first byte to its last.
type stream struct {
	w  io.Writer
	at int64
}

func (s *stream) WriteAt(p []byte, at int64) (int, error) {
	if err := s.Truncate(at); err != nil {
		return 0, err
	}
	n, err := s.w.Write(p)
	s.at += int64(n)
	return n, err
}

// Truncate writes zeros up to size, which is not less than what was written.
func (s *stream) Truncate(size int64) error {
	zeros := make([]byte, min(size-s.at, chunk))
	for s.at < size {
		n, err := s.w.Write(zeros[:min(size-s.at, chunk)])
		s.at += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// copyTo copies the pages in use to the new file to. Free pages are not copied, because they may
// contain deleted secrets.
func (f *openFile) copyTo(ctx context.Context, to target) error {
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

// wipeFree overwrites the free pages of the file with zeros. No other operation may use the file
// meanwhile.
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

// existing is an error: the path of a file that must not exist, but does.
type existing string

func (e existing) Error() string { return string(e) + " exists already" }
func (existing) Unwrap() error   { return secret.ErrExists }

var errNoFile = secret.WithHint(fmt.Errorf("%w: the store has no file yet", secret.ErrInvalid),
	"the first secret that is created makes it")

// Backup copies the store as it is when Backup begins to the new file to, which only its owner can
// read. The copy is sealed with the same keys as the store: it can be opened for reading as it is,
// and Restore makes a store of it. It contains neither deleted secrets nor data keys wrapped for
// older keys. Reads and changes go on meanwhile. Pages that they free are reused only after Backup
// has ended. Only a change for which the file must grow past a multiple of a GiB waits for Backup.
//
// The file to appears whole and durable, or not at all. Errors wrap [secret.ErrExists] if to
// exists, [secret.ErrInvalid] if the store has no file yet, [secret.ErrCorrupt] if the pages of the
// store are damaged, and [secret.ErrUnavailable] if to cannot be written. Backup decrypts nothing,
// so it does not notice a damaged secret: see Verify.
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
	if errors.Is(err, secret.ErrExists) {
		err = secret.WithHint(err, "a backup replaces no file: give another name, or move that file away")
	}
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// BackupTo writes what Backup would put into a file to w. If it fails, what w got is useless: it is
// cut short, which Restore notices.
func (s *Store) BackupTo(ctx context.Context, w io.Writer) error {
	s.long.RLock()
	defer s.long.RUnlock()
	err := ctx.Err()
	if err == nil {
		err = s.use(ctx, errNoFile, func() error { return s.copyTo(ctx, &stream{w: w}) })
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, secret.ErrCorrupt):
		err = s.o.fileError(err)
	case secret.KindOf(err) == secret.KindUnknown: // of w
		err = fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	return fmt.Errorf("backup: %w", err)
}

// vacant returns an error that wraps [secret.ErrExists] if path exists.
func vacant(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return existing(path)
	}
	return nil // if Lstat failed for another reason, making the file will fail with that reason
}

// copyError returns err, the result of copying s to the file to, with its kind, the file that it
// concerns and a hint.
func (s *Store) copyError(to string, err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrExist):
		return existing(to)
	case errors.Is(err, secret.ErrCorrupt), errors.Is(err, secret.ErrUnavailable):
		return s.o.fileError(err)
	}
	return secret.WithHint(fmt.Errorf("%w: %w", secret.ErrUnavailable, err),
		"see that %s can be written and has room", filepath.Dir(to))
}

// Restore makes the store file o.Path from the backup file from, which errors call by name and o.Key
// opens, and returns the number of its secrets. It verifies the copy before the file appears, whole
// and durable. Meanwhile the new file is locked for this process alone. o.Write and o.Address have
// no effect.
//
// Errors wrap [secret.ErrCorrupt] if the backup is damaged or cut short, [secret.ErrDenied] if
// o.Key does not open it, [secret.ErrExists] if o.Path exists, and [secret.ErrUnavailable] if a
// server still holds the store that was at o.Path. On an error nothing has changed.
//
// A process that has a store file open goes on using it after the file was moved away. So end every
// process that uses a store before you replace its file.
func Restore(ctx context.Context, o Options, from, name string) (secrets int, err error) {
	if secrets, err = restore(ctx, o, from, name); err != nil {
		return 0, fmt.Errorf("restore: %w", err)
	}
	return secrets, nil
}

func restore(ctx context.Context, o Options, from, name string) (secrets int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := vacant(o.Path); err != nil {
		return 0, secret.WithHint(err,
			"end every process that uses it, then move it away first: a backup never replaces a store")
	}

	if held, ok := readNote(o.Path); ok {
		return 0, secret.WithHint(
			fmt.Errorf("%w: the store that was at %s is still held by %s", secret.ErrUnavailable, o.Path, held),
			"end it first: it would go on using the file that was moved away")
	}

	backup := &Store{o: o}
	backup.o.Path, backup.o.Write, backup.o.Address, backup.o.backup = from, false, "", name
	switch err := backup.open(ctx); {
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("%w: there is no file %s", secret.ErrInvalid, name)
	case errors.Is(err, errForeign):
		return 0, secret.WithHint(err, "give a file that injectd backup wrote, whole and unchanged")
	case err != nil:
		return 0, err
	}
	defer backup.Close() //nolint:errcheck // read only

	// The copy is opened for writing, so that this process holds its lock until it is durable.
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

// Rewrap makes the key to open the store, in place of the key that opens it now. If the key file
// of to does not exist it is made, as for a new store. It is durable before the store is changed,
// and the change is one transaction: after a power cut either the old key or the new one opens the
// store. Secrets are not sealed again, and the open Store stays usable. Rewrap waits for a Backup
// or Verify to end; all other operations wait for Rewrap.
//
// The data key stays the same. Anyone who knows it, or who has the old key and an old copy of the
// file, can still read secrets sealed with it. Rewrap overwrites the pages of the file that the
// old key opens. It cannot overwrite other copies of them: backups, snapshots and the journal of
// the file system, spare blocks of a flash disk. If overwriting fails the error says so, but the
// key has been changed. A store without a file is [secret.ErrInvalid].
//
// Each of accept is called with the data key wrapped for the new key, before the store is changed.
// Its error ends Rewrap; only the new key file has then been made.
func (s *Store) Rewrap(ctx context.Context, to Key, accept ...func(wrapped []byte) error) error {
	if err := s.rewrap(ctx, to, accept); err != nil {
		return fmt.Errorf("rewrap: %w", err)
	}
	return nil
}

func (s *Store) rewrap(ctx context.Context, to Key, accept []func(wrapped []byte) error) error {
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
		err = ctx.Err() // it may have ended while a person typed a passphrase
	}
	for _, check := range accept {
		if err == nil {
			err = check(made.wrapped)
		}
	}
	if err == nil { // a store of format 1 is rewritten here, and not below, where readers wait
		err = s.use(ctx, errNoFile, func() error {
			if err := s.update(ctx, (*tx).saveRoot); err != nil {
				return s.o.fileError(err)
			}
			return nil
		})
	}
	if err != nil {
		return err
	}

	s.long.Lock() // before s.mu, because waiting for s.mu would block all readers
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
		return t.saveRoot()
	})
	if wrapped, err := s.wrapped(); err == nil && bytes.Equal(wrapped, made.wrapped) {
		s.made = made // also if the commit reported an error but is in the file
	}
	if err != nil {
		return s.o.fileError(err)
	}

	if err := s.guard(s.wipeFree); err != nil {
		if !errors.Is(err, secret.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
		}
		return s.o.fileError(
			fmt.Errorf("the new key opens it, but pages that the old key opens could not be overwritten: %w", err))
	}
	return nil
}
