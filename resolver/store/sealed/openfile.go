package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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

// format is the version of the layout that the package comment describes.
const format = 1

var (
	bucketName = []byte("inject")
	formatKey  = []byte("format")
	wrappedKey = []byte("key")
	paddingKey = []byte("padding")
)

// mapped is how much of the address space bbolt gets for the file; a 32-bit one is
// too small. The file grows to twice its size, but by no more and no less than these.
const (
	mapped    = strconv.IntSize / 64 << 30
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// openFile is the part of a Store that there is once the file exists.
type openFile struct {
	file *os.File
	meta page.Meta // when the file was opened
	db   *bbolt.DB // nil if it was opened for reading: looking a key up takes no more than pages.go
	keys keys
	// writing is held while a transaction is written, and by who must not meet one.
	writing sync.Mutex
	// reading is held for reading by who reads what bbolt keeps for them. After a commit
	// that failed it keeps nothing for those who had begun before: they end first.
	reading sync.RWMutex
	// unsynced is set when a commit failed and may have been made, until the current meta page is
	// known to be on the disk. Who holds writing uses it.
	unsynced bool
	// broken is set when bbolt panicked, maybe with its own locks held: from then on
	// nothing of it is called.
	broken atomic.Bool
	note   *os.File // of who serves the store, locked; nil if nobody does
}

// init checks the file, opens it with bbolt if it is to be changed, and returns
// the wrapped data key.
func (f *openFile) init(o Options) (wrapped []byte, err error) {
	info, err := f.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	f.meta, err = page.ReadMetas(f.file, info.Size())
	if errors.Is(err, page.ErrForeign) {
		return nil, secret.WithHint(fmt.Errorf("%w: not a store file", secret.ErrInvalid),
			"give --store the path of a file that inject made, or of one that does not exist yet")
	}
	if err != nil {
		return nil, err
	}

	if o.Write {
		err = f.guard(func() (err error) {
			f.db, err = bbolt.Open(o.Path, 0o600, &bbolt.Options{
				Timeout:  time.Minute, // openLocked has the lock
				OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f.file, nil },
				// Statistics cost every transaction, and nobody reads them.
				NoStatistics: true,
				// bbolt maps more when the file grows past it, and for that waits for those
				// who read, and lets nobody begin to. A Backup reads for long.
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
		if v := binary.BigEndian.Uint32(v); v != format {
			return secret.WithHint(
				fmt.Errorf("%w: format %d of the store is unknown (this inject knows format %d)",
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
		wrapped, err = t.get(wrappedKey)
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
	// A mapping that bbolt could not undo keeps the file open, and so its lock.
	return errors.Join(unix.Flock(int(f.file.Fd()), unix.LOCK_UN), f.file.Close())
}

var errBroken = damaged("its pages make no sense")

// guard runs fn and turns a fault in the mapped file and a panic of bbolt into
// [secret.ErrCorrupt].
func (f *openFile) guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			f.broken.Store(true)
			err = errBroken // not r: it may quote what the pages hold
		}
	}()
	return fn()
}

// view runs fn in a read transaction. What it reads is read from the file; bbolt,
// where it has the file, keeps the transaction's pages from being used again.
func (f *openFile) view(fn func(*tx) error) error {
	if f.db == nil {
		t, err := f.begin(f.meta.TxID, f.meta.Root, f.meta.TxID)
		if err != nil {
			return err
		}
		return fn(t)
	}
	if f.broken.Load() {
		return errBroken
	}
	f.reading.RLock()
	defer f.reading.RUnlock()
	return f.guard(func() error {
		return f.db.View(func(bt *bbolt.Tx) error {
			id := uint64(bt.ID()) //nolint:gosec // transaction ids count from 0
			t, err := f.begin(id, uint64(bt.Cursor().Bucket().Root()), id)
			if err != nil {
				return err
			}
			return fn(t)
		})
	})
}

// update runs fn in a write transaction when its turn comes. Where nobody waits for it any
// more by then it is not run: to make a change now would be to make it minutes after that
// was given up.
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
		// The commit failed. Pages are written before the meta page that makes them
		// count, so what found no room for them has changed nothing; of a failing disk,
		// which may have taken the meta page, that cannot be said.
		full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
		outcome := "the change may not have been made"
		if full && f.lastBefore(id) {
			outcome = "nothing was changed"
		} else {
			f.unsynced = true
			// bbolt reads its list of free pages again, from the meta page that was
			// perhaps taken: on it is what older readers still read.
			f.reading.Lock()
			f.reading.Unlock() //nolint:staticcheck // nothing is done: who had begun has ended
		}
		return secret.WithHint(fmt.Errorf("%w: %s: %w", secret.ErrUnavailable, outcome, err),
			"see that its disk has room and works: df -h")
	}
	return err
}

// lastBefore reports whether the last transaction that counts is known to be one before id.
func (f *openFile) lastBefore(id uint64) bool {
	m, _, err := f.readHead()
	return err == nil && m.TxID < id
}

// syncMeta writes the current meta page once more. After a sync that failed the kernel
// takes the page for written, and no later sync helps: the next change would write over
// what the meta page on the disk, the one before, still leads to, and next to that one its
// own would not belong.
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
