package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"inject/exec/harden"
	"inject/internal/durable"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// Options say which file is opened, how and with what key.
type Options struct {
	// Path of the store file. If the file does not exist the store is empty, and the first Create
	// or Import makes it.
	Path string
	// Write locks the file for this process alone. Without Write the file is shared with other
	// readers, and every change is refused.
	Write bool
	// Key opens the data key.
	Key Key
	// LockTimeout is how long to wait for other processes that use the file.
	LockTimeout time.Duration
	// Waiting, if not nil, is called once if Open has waited for half a second, with the name of the process that
	// holds the file.
	Waiting func(holder string)
	// Address, if not "", is where this process serves the store. Errors of other processes that
	// try to open the file meanwhile recommend it.
	Address string

	backup string // what errors call the file, if it is a backup that is restored
}

// Store is a store in one file. It is safe for concurrent use. It holds the lock of the file until
// it is closed.
type Store struct {
	o Options

	// long is held (shared) by Backup and Verify, which read the whole file. Rewrap takes it alone,
	// before mu: a goroutine that waits for mu blocks all readers.
	long   sync.RWMutex
	mu     sync.RWMutex // held alone while the file is opened, closed or rewrapped
	made   madeKey
	closed bool
	*openFile
}

// madeKey is a data key that this process has made or unwrapped, beside its wrapped form. While the
// file has that form, the key is not unwrapped again and no person is asked for a passphrase.
type madeKey struct{ key, wrapped []byte }

var _ store.Importer = (*Store)(nil)

// Open opens the store that o describes. The caller closes it. A file that does not exist is not an
// error: such a store is empty. Errors wrap [secret.ErrDenied] if the key does not open the file or
// the file may not be read, [secret.ErrUnavailable] if another process holds it for longer than
// LockTimeout, [secret.ErrCorrupt] if it is damaged and [secret.ErrInvalid] if it is not a store.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{o: o}
	err := s.open(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

// open opens the existing file. It returns [fs.ErrNotExist] if there is none.
func (s *Store) open(ctx context.Context) error {
	for {
		f, err := openLocked(ctx, s.o)
		if err != nil {
			return err
		}

		opened := &openFile{file: f, reading: new(sync.WaitGroup)}
		wrapped, err := opened.init(s.o)
		if err != nil {
			_ = opened.close()
			return s.o.fileError(err)
		}

		if s.made.key == nil || !bytes.Equal(wrapped, s.made.wrapped) {
			s.o.Key.load(wrapped)
			// From before there is a key in memory, but once the files are open: they may be
			// named by our folder in /proc, which is closed to us from then on.
			harden.Process(func(string, ...any) {})
			asks := s.o.Key.asks(wrapped)
			if asks {
				// Release the lock while a person types a passphrase. The file is opened again
				// afterwards, as it may have changed by then.
				_ = opened.close()
			}
			key, err := s.o.Key.open(wrapped)
			if err == nil {
				s.made = madeKey{key, wrapped}
			}
			if err == nil && asks {
				continue
			}
			if err != nil {
				_ = opened.close()
				return s.o.fileError(err)
			}
		}

		opened.keys = deriveKeys(s.made.key)
		if err := s.announce(opened); err != nil {
			return errors.Join(fmt.Errorf("%w: %w", secret.ErrUnavailable, err), opened.close())
		}
		s.openFile = opened
		return nil
	}
}

// announce writes the note with the address of this server, if it is one, and makes sure that the
// name of a file that will be written is durable.
func (s *Store) announce(f *openFile) (err error) {
	if s.o.Address != "" {
		if f.note, err = writeNote(s.o); err != nil {
			return err
		}
	}
	if !s.o.Write {
		return nil
	}
	// The process that made the file may not have synced its folder yet. Without that, a power cut
	// would take the file away with everything that we write into it.
	return durable.Sync(filepath.Dir(s.o.Path))
}

// fileError names the file in err and, if the file is damaged, adds a hint.
func (o Options) fileError(err error) error {
	named := fmt.Errorf("store file %s: %w", o.Path, err)
	if o.backup != "" {
		named = fmt.Errorf("the backup %s: %w", o.backup, err)
	}
	if errors.Is(err, secret.ErrCorrupt) && secret.Hint(err) == "" {
		return secret.WithHint(named,
			"the file was changed by something other than inject, or its disk is failing: restore it from a copy")
	}
	return named
}

// Close waits for the operations that are under way, then closes the file and gives up its lock.
// Later operations fail with [secret.ErrUnavailable].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.openFile == nil {
		return nil
	}
	if s.note != nil {
		_ = os.Remove(notePath(s.o.Path))
		_ = s.note.Close()
	}
	err := s.close()
	s.openFile = nil
	return err
}

// read calls fn in a read transaction with the index entry of ref.
func (s *Store) read(ctx context.Context, op string, ref secret.Ref, fn func(*tx, index.Entry) error) error {
	err := errors.Join(ctx.Err(), ref.Validate())
	if err == nil {
		err = s.use(ctx, secret.ErrNotFound, func() error {
			return s.view(func(t *tx) error {
				e, err := t.find(ref)
				if err != nil {
					return err
				}
				return fn(t, e)
			})
		})
	}
	return s.opError(op, ref, err)
}

// use calls fn while the file is kept open. It returns absent if there is no file. A file that
// another process has made since Open is opened first: a server that was started without a file
// must not answer that it has no secrets.
func (s *Store) use(ctx context.Context, absent error, fn func() error) error {
	s.mu.RLock()
	if s.openFile == nil {
		s.mu.RUnlock()
		if err := s.openExisting(ctx); err != nil {
			return err
		}
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.openFile == nil {
		return absent
	}
	return fn()
}

// errClosed must not be absence: the ladder would go on to a wider scope.
var errClosed = fmt.Errorf("%w: the store is closed", secret.ErrUnavailable)

func (s *Store) openExisting(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.openFile != nil:
		return nil
	}
	if err := s.open(ctx); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) opError(op string, ref secret.Ref, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, secret.ErrCorrupt), errors.Is(err, secret.ErrUnavailable):
		err = s.o.fileError(err)
	}
	return &secret.Error{Op: op, Ref: ref, Err: err}
}

// Get implements [store.Reader].
func (s *Store) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	err = s.read(ctx, "get", ref, func(t *tx, e index.Entry) (err error) {
		v, info, err = t.loadValue(e)
		return err
	})
	return v, info, err
}

// Describe implements [store.Lister].
func (s *Store) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = s.read(ctx, "describe", ref, func(t *tx, e index.Entry) (err error) {
		info, _, err = t.loadInfo(e)
		return err
	})
	return info, err
}

var errReading = fmt.Errorf("%w: the store is open for reading only", secret.ErrInvalid)

// change checks ref and v, makes the file if op is "create", and calls fn in a write transaction.
func (s *Store) change(ctx context.Context, op string, ref secret.Ref, v secret.Value, fn func(*tx) error) error {
	allowed := store.Writable
	if op == "create" {
		allowed = store.Creatable
	}
	err := errors.Join(ctx.Err(), allowed(ref, v))
	if err == nil && !s.o.Write {
		err = errReading
	}
	if err == nil && op == "create" {
		err = s.make(ctx)
	}
	if err == nil {
		err = s.use(ctx, secret.ErrNotFound, func() error { return s.update(ctx, fn) })
	}
	return s.opError(op, ref, err)
}

// make makes the file, unless it exists, and opens it, unless it is open.
func (s *Store) make(ctx context.Context) error {
	// Mostly it is open. Waiting for mu alone would end with the longest operation under way, such as a
	// Backup, and block all readers meanwhile.
	s.mu.RLock()
	isOpen := s.openFile != nil
	s.mu.RUnlock()
	if isOpen {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.openFile != nil:
		return nil
	}

	err := s.open(ctx)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.made, err = s.o.Key.newDataKey(); err != nil {
		return err
	}

	err = durable.Create(s.o.Path, func(temp string) error {
		db, err := bbolt.Open(temp, 0o600, &bbolt.Options{NoStatistics: true})
		if err != nil {
			return err
		}
		err = db.Update(func(bt *bbolt.Tx) error {
			b, err := bt.CreateBucket(bucketName)
			if err != nil {
				return err
			}
			id := uint64(bt.ID()) //nolint:gosec // as in begin
			keys := deriveKeys(s.made.key)
			root := nodeKey(nil)
			return errors.Join(
				b.Put(formatKey, binary.BigEndian.AppendUint32(nil, format)),
				b.Put(wrappedKey, s.made.wrapped),
				// bbolt keeps a small bucket (up to a quarter of a page) inside its parent's page,
				// where package page does not look for one.
				b.Put(paddingKey, make([]byte, db.Info().PageSize/2)),
				b.Put(root, seal(keys.node, index.Empty(), boundTo(root, id, "node"))),
			)
		})
		return errors.Join(err, db.Close())
	})

	switch {
	case err == nil:
		s.o.Key.notice("made the store " + s.o.Path)
	case errors.Is(err, fs.ErrExist): // another process was faster
	default:
		return secret.WithHint(fmt.Errorf("%w: nothing was created: make the store: %w", secret.ErrUnavailable, err),
			"see that %s can be written and has room", s.o.Path)
	}
	return s.open(ctx)
}

// Create implements [store.Manager]. The first Create makes the key file, unless it exists, and
// then the store file.
func (s *Store) Create(ctx context.Context, ref secret.Ref, v secret.Value, typ store.Type) error {
	return s.create(ctx, ref, v, typ, nil)
}

func (s *Store) create(
	ctx context.Context, ref secret.Ref, v secret.Value, typ store.Type, limit store.Limit,
) error {
	return s.change(ctx, "create", ref, v, func(t *tx) error {
		e, err := t.find(ref)
		if err == nil {
			return secret.ErrExists
		}
		if !errors.Is(err, secret.ErrNotFound) {
			return err
		}
		now := time.Now().UTC().Round(0)
		e, err = t.putRecord(e.Name, store.Info{Ref: ref, Type: typ, Created: now, Updated: now}, v)
		if err != nil {
			return err
		}
		return t.enter([]change{{ref: ref, entry: e}}, limit)
	})
}

// Update implements [store.Manager].
func (s *Store) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return s.replace(ctx, ref, v, nil)
}

func (s *Store) replace(ctx context.Context, ref secret.Ref, v secret.Value, limit store.Limit) error {
	return s.change(ctx, "update", ref, v, func(t *tx) error {
		e, err := t.find(ref)
		if err != nil {
			return err
		}
		info, _, err := t.loadInfo(e)
		if err != nil {
			return err
		}
		info.Updated = time.Now().UTC().Round(0)
		now, err := t.putRecord(e.Name, info, v)
		if err != nil {
			return err
		}
		return t.enter([]change{{ref: ref, entry: now, was: e.Weight}}, limit)
	})
}

// Delete implements [store.Manager].
func (s *Store) Delete(ctx context.Context, ref secret.Ref) error {
	return s.change(ctx, "delete", ref, secret.Value{}, func(t *tx) error {
		e, err := t.find(ref)
		if err != nil {
			return err
		}
		if err := t.remove(recordKey(e.Name)); err != nil {
			return err
		}
		return t.enter([]change{{ref: ref, entry: index.Entry{Name: e.Name}, was: e.Weight}}, nil)
	})
}
