package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"inject/resolver/secret"
	"inject/resolver/store/sealed/page"
)

// format is the version of the layout that the package comment describes. A file of version 1 is
// opened, too, and rewritten by the first change: see rewrite. A file of another version is refused.
const format = 2

var (
	bucketName = []byte("inject")
	formatKey  = []byte("format")
	wrappedKey = []byte("key")
	paddingKey = []byte("padding")
)

// mapped is how many bytes of address space bbolt reserves for the file: 1 GiB, or nothing in a
// 32-bit process, whose address space is too small. A file that is full grows to twice its size,
// but by at least minGrowth and at most maxGrowth bytes.
const (
	mapped    = strconv.IntSize / 64 << 30
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// openFile is the part of a Store that exists once its file exists and is open.
type openFile struct {
	file *os.File
	meta page.Meta // as it was when the file was opened
	db   *bbolt.DB // nil if the file was opened for reading only: package page reads without bbolt
	keys keys
	// rewritten is the first transaction whose format is the current one: 0 if the file had it when
	// it was opened, math.MaxUint64 while it is of format 1.
	rewritten atomic.Uint64
	// writing is held during a write transaction, and by readers of the meta pages, which a
	// transaction changes.
	writing sync.Mutex
	// reading counts the readers that rely on pages that bbolt keeps for their transaction. After a
	// failed commit bbolt may reuse those pages, so update waits for these readers. Later ones count
	// in another group, since they may not have to wait, and update not for them.
	reading   *sync.WaitGroup
	readingMu sync.Mutex // guards the pointer
	// unsynced is set if a commit failed that may be on the disk all the same, until the current
	// meta page has been synced. It is used while writing is held.
	unsynced bool
	// broken is set if bbolt panicked. It may have kept its own locks, so it is not called again.
	broken atomic.Bool
	// spare has the scratch of read transactions that have ended.
	spare sync.Pool
	note  *os.File // the note of this server, locked; nil if this process is not one
}

var errForeign = fmt.Errorf("%w: not a store file", secret.ErrInvalid)

// init checks the file, opens it with bbolt if it may be changed, and returns the wrapped data key.
func (f *openFile) init(o Options) (wrapped []byte, err error) {
	info, err := f.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	f.meta, err = page.ReadMetas(f.file, info.Size())
	if errors.Is(err, page.ErrForeign) {
		return nil, secret.WithHint(errForeign,
			"give the path of a file that inject made, or of one that does not exist yet")
	}
	if err != nil {
		return nil, err
	}

	if o.Write {
		err = f.guard(func() (err error) {
			f.db, err = bbolt.Open(o.Path, 0o600, &bbolt.Options{
				Timeout:  time.Minute, // never reached: openLocked has taken the lock
				OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f.file, nil },
				// Statistics cost time in every transaction and are not used.
				NoStatistics: true,
				// If the file grows past its mapping, bbolt maps more. For that it waits until all
				// readers have ended, a long Backup included, and lets no reader begin.
				InitialMmapSize: mapped,
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}

	err = f.view(func(t *tx) error {
		v, err := t.get(formatKey)
		if err != nil {
			return err
		}
		if len(v) != 4 {
			return damaged("the format is malformed")
		}
		switch v := binary.BigEndian.Uint32(v); v {
		case format:
		case 1:
			f.rewritten.Store(math.MaxUint64)
		default:
			return secret.WithHint(
				fmt.Errorf("%w: format %d of the store is unknown (this inject knows formats 1 and %d)",
					secret.ErrInvalid, v, format),
				"a newer inject made this store: upgrade this one")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f.wrapped()
}

// wrapped returns the wrapped data key.
func (f *openFile) wrapped() (wrapped []byte, err error) {
	err = f.view(func(t *tx) error {
		v, err := t.get(wrappedKey)
		wrapped = bytes.Clone(v)
		return err
	})
	return wrapped, err
}

func (f *openFile) close() error {
	if f.db != nil && !f.broken.Load() {
		if err := f.guard(f.db.Close); err == nil {
			return nil
		}
	}
	// If bbolt could not unmap the file, the mapping keeps the file open and with it the lock, so
	// the lock is given up explicitly.
	return errors.Join(unix.Flock(int(f.file.Fd()), unix.LOCK_UN), f.file.Close())
}

var errBroken = damaged("its pages contradict each other")

// guard calls fn and turns a fault in the mapped file or a panic of bbolt into [secret.ErrCorrupt].
func (f *openFile) guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			f.broken.Store(true)
			err = errBroken // not r, which may quote the content of pages
		}
	}()
	return fn()
}

// view calls fn in a read transaction. fn reads through package page. If the file may be changed,
// bbolt's transaction keeps the pages from being reused meanwhile.
func (f *openFile) view(fn func(*tx) error) error {
	s, ok := f.spare.Get().(*scratch)
	if !ok {
		s = f.newScratch()
	}
	defer f.spare.Put(s)
	if f.db == nil {
		t, err := f.begin(f.meta.TxID, f.meta.Root, f.meta.TxID, s)
		if err != nil {
			return err
		}
		return fn(t)
	}
	if f.broken.Load() {
		return errBroken
	}
	f.readingMu.Lock()
	reading := f.reading
	reading.Add(1)
	f.readingMu.Unlock()
	defer reading.Done()
	return f.guard(func() error {
		return f.db.View(func(bt *bbolt.Tx) error {
			id := uint64(bt.ID()) //nolint:gosec // transaction ids count from 0
			t, err := f.begin(id, uint64(bt.Cursor().Bucket().Root()), id, s)
			if err != nil {
				return err
			}
			return fn(t)
		})
	})
}

// update calls fn in a write transaction when its turn comes. If ctx has ended by then, fn is not
// called: a change must not appear minutes after its caller gave up. A file of format 1 is rewritten
// first, even if ctx ends meanwhile: otherwise callers that do not wait long enough would make the
// rewriting begin again and again.
func (f *openFile) update(ctx context.Context, fn func(*tx) error) error {
	f.writing.Lock()
	defer f.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.broken.Load() {
		return errBroken
	}
	if f.unsynced {
		if err := f.syncMeta(); err != nil {
			return secret.WithHint(fmt.Errorf("%w: nothing was changed: %w", secret.ErrUnavailable, err),
				"see that its disk works")
		}
	}
	if f.rewritten.Load() > 0 {
		if err := f.rewrite(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return f.commit(fn)
}

// commit calls fn in a write transaction. f.writing must be held.
func (f *openFile) commit(fn func(*tx) error) error {
	var refused error
	var id uint64
	err := f.guard(func() error {
		return f.db.Update(func(bt *bbolt.Tx) error {
			t, err := f.beginUpdate(bt)
			if err == nil {
				id = t.id
				err = fn(t)
			}
			refused = err
			return err
		})
	})

	if err != nil && refused == nil && !errors.Is(err, secret.ErrCorrupt) {
		// The commit failed. bbolt writes the pages first and then the meta page that makes them
		// current. So a full disk has changed nothing, but a failing disk may have stored the meta
		// page all the same.
		full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
		outcome := "the change may not have been made"
		if full && f.lastBefore(id) {
			outcome = "nothing was changed"
		} else {
			f.unsynced = true
			// bbolt now reads its list of free pages again, perhaps from the new meta page. Pages
			// that older readers still use are free on that list, so wait for those readers.
			f.readingMu.Lock()
			older := f.reading
			f.reading = new(sync.WaitGroup)
			f.readingMu.Unlock()
			older.Wait()
		}
		return secret.WithHint(fmt.Errorf("%w: %s: %w", secret.ErrUnavailable, outcome, err),
			"see that its disk has room and works: df -h")
	}
	return err
}

// lastBefore reports whether the current transaction of the file is known to be older than id.
func (f *openFile) lastBefore(id uint64) bool {
	m, _, err := f.readHead()
	return err == nil && m.TxID < id
}

// syncMeta writes the current meta page again and syncs it. After a failed sync the kernel marks
// the page as clean, so a later sync succeeds without writing it. The disk would then still have
// the meta page of the transaction before, and the next change would overwrite pages that it leads
// to.
func (f *openFile) syncMeta() error {
	m, head, err := f.readHead()
	if err != nil {
		return err
	}
	at := int64(m.TxID%2) * m.PageSize
	if _, err := f.file.WriteAt(head[at:at+m.PageSize], at); err != nil {
		return err
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	f.unsynced = false
	return nil
}

// damaged returns an error that wraps [secret.ErrCorrupt].
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{secret.ErrCorrupt}, args...)...)
}
