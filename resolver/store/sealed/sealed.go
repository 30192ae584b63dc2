package sealed

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/unix"

	"inject/internal/durable"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// format is the version of the layout that the package comment describes.
const format = 1

var (
	bucketName = []byte("inject")
	formatKey  = []byte("format")
	wrappedKey = []byte("key")
	paddingKey = []byte("padding")
)

// The first byte of the keys of nodes and of records.
const (
	nodePrefix   = 'n'
	recordPrefix = 'r'
)

// mapped is how much of the address space bbolt gets for the file; a 32-bit one is
// too small. The file grows to twice its size, but by no more and no less than these.
const (
	mapped    = strconv.IntSize / 64 << 30
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// listPage is how many secrets a page of List holds if the caller does not say.
const listPage = 1000

// Options say which file is opened, how and with what key.
type Options struct {
	// Path of the store file. If it does not exist the store is empty, and the
	// first Create makes it.
	Path string
	// Write locks the file for this process alone; without it, it is shared with
	// other readers and every change is refused.
	Write bool
	// Key opens the data key.
	Key Key
	// LockTimeout is how long to wait for others who use the file.
	LockTimeout time.Duration
	// Waiting, if not nil, is called once when there is a wait, with who is waited for.
	Waiting func(holder string)
	// Opened, if not nil, is called when the files are open, before what is secret is
	// taken out of the key.
	Opened func()
	// Address, if not "", is told to others who want the file while it is open, as
	// the one at which the store is served.
	Address string
}

// Store is a store in one file. It is safe for concurrent use. It holds the
// file's lock until it is closed.
type Store struct {
	o Options

	long   sync.RWMutex // held for reading by what reads all of the file; before mu
	mu     sync.RWMutex // held for writing while the file is opened or closed
	made   madeKey
	closed bool
	*openFile
}

// madeKey is a data key that this process has just made: nobody is asked for
// what opens it again.
type madeKey struct{ key, wrapped []byte }

// openFile is the part of a Store that there is once the file exists.
type openFile struct {
	file *os.File
	meta meta      // when the file was opened
	db   *bbolt.DB // nil if it was opened for reading: looking a key up takes no more than pages.go
	keys keys
	// writing is held while a transaction is written, and by who must not meet one.
	writing sync.Mutex
	// reading is held for reading by who reads what bbolt keeps for them. After a commit
	// that failed it keeps nothing for those who had begun before: they end first.
	reading sync.RWMutex
	// unsynced is set with doubtful, until the current meta page is known to be on the
	// disk. Who holds writing uses it.
	unsynced bool
	// broken is set when bbolt panicked, maybe with its own locks held: from then on
	// nothing of it is called.
	broken atomic.Bool
	// doubtful is set when a commit failed and may have been made: a failing disk may
	// give one answer now and another later, and what is kept would be of neither.
	doubtful atomic.Bool
	seen     *seen
	note     *os.File // of who serves the store, locked; nil if nobody does
}

// keys are derived from the data key, one for each use.
type keys struct {
	name   []byte
	token  []byte
	node   cipher.AEAD
	record cipher.AEAD
}

var _ store.Importer = (*Store)(nil)

// Open opens the store that o describes. The caller closes it.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{o: o}
	err := s.open(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

// open opens the existing file; [fs.ErrNotExist] if there is none.
func (s *Store) open(ctx context.Context) error {
	for {
		f, err := openLocked(ctx, s.o)
		if err != nil {
			return err
		}
		opened := &openFile{file: f, seen: newSeen()}
		wrapped, err := opened.init(s.o)
		if err != nil {
			_ = opened.close()
			return fileError(s.o.Path, err)
		}
		if s.made.key == nil || !bytes.Equal(wrapped, s.made.wrapped) {
			s.o.Key.load(wrapped)
			if s.o.Opened != nil {
				s.o.Opened()
			}
			asks := s.o.Key.asks(wrapped)
			if asks {
				// A person takes their time, and others want the file.
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
				return fileError(s.o.Path, err)
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

// announce does what a process that has the file for itself owes others.
func (s *Store) announce(f *openFile) (err error) {
	if s.o.Address != "" {
		if f.note, err = writeNote(s.o); err != nil {
			return err
		}
	}
	if !s.o.Write {
		return nil
	}
	// Whoever made the file may not have synced its folder yet, and what we write
	// into the file is only as durable as its name.
	return durable.Sync(filepath.Dir(s.o.Path))
}

// fileError names the file and, where it is damaged, what to do.
func fileError(path string, err error) error {
	named := fmt.Errorf("store file %s: %w", path, err)
	if errors.Is(err, secret.ErrCorrupt) && secret.Hint(err) == "" {
		return secret.WithHint(named, "the file was changed by something other than inject, or its disk is failing: restore it from a copy")
	}
	return named
}

// init checks the file, opens it with bbolt if it is to be changed, and returns
// the wrapped data key.
func (f *openFile) init(o Options) (wrapped []byte, err error) {
	info, err := f.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	if f.meta, err = checkMetas(f.file, info.Size()); err != nil {
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
			return secret.WithHint(fmt.Errorf("%w: format %d of the store is unknown (this inject knows format %d)", secret.ErrInvalid, v, format), "a newer inject made this store: upgrade this one")
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

func deriveKeys(dataKey []byte) keys {
	derive := func(use string) []byte {
		key, err := hkdf.Key(sha256.New, dataKey, nil, "inject sealed store v1 "+use, chacha20poly1305.KeySize)
		if err != nil {
			panic(err) // only for lengths that sha256 cannot give
		}
		return key
	}
	aead := func(use string) cipher.AEAD {
		a, err := chacha20poly1305.NewX(derive(use))
		if err != nil {
			panic(err) // only for other key sizes
		}
		return a
	}
	return keys{name: derive("name"), token: derive("token"), node: aead("node"), record: aead("record")}
}

func (k *keys) nameOf(ref secret.Ref) name {
	h := hmac.New(sha256.New, k.name)
	_, _ = h.Write([]byte(ref.ID()))
	return name(h.Sum(nil))
}

// Close gives the file back, after the operations that are under way. Those that
// come later fail with [secret.ErrUnavailable].
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

// tx is one transaction of the file.
type tx struct {
	*openFile

	id     uint64
	index  index
	root   uint64        // the bucket's root page, as committed
	bucket *bbolt.Bucket // nil in a read transaction
	walked map[string]bool
	nodes  *nodeCache // nil if nothing is to be kept
	pages  *pageCache // nil in a write transaction, too: bbolt does not know what we know
}

// begin returns the transaction id on the tree whose bucket of buckets is at the
// page root, and whose index was committed by the transaction committed: id itself,
// unless id is one that writes.
func (f *openFile) begin(id, root, committed uint64) (t *tx, err error) {
	t = &tx{openFile: f, id: id}
	if !f.doubtful.Load() {
		t.nodes = &f.seen.nodes
		if committed == id {
			t.pages = f.seen.pagesAt(id)
		}
	}
	t.index = index{root: committed, now: id, load: t.loadNode, look: t.lookNode, save: t.saveNode}
	t.root, err = bucketRoot(f.file, f.meta.pageSize, root, t.pages)
	return t, err
}

// view runs fn in a read transaction. What it reads is read from the file; bbolt,
// where it has the file, keeps the transaction's pages from being used again.
func (f *openFile) view(fn func(*tx) error) error {
	if f.db == nil {
		t, err := f.begin(f.meta.txid, f.meta.root, f.meta.txid)
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
			return secret.WithHint(fmt.Errorf("%w: nothing was changed: %w", secret.ErrUnavailable, err), "see that its disk works")
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
			f.doubtful.Store(true)
			f.unsynced = true
			// bbolt reads its list of free pages again, from the meta page that was
			// perhaps taken: on it is what older readers still read.
			f.reading.Lock()
			f.reading.Unlock() //nolint:staticcheck // nothing is done: who had begun has ended
		}
		return secret.WithHint(fmt.Errorf("%w: %s: %w", secret.ErrUnavailable, outcome, err), "see that its disk has room and works: df -h")
	}
	return err
}

// lastBefore reports whether the last transaction that counts is known to be one before id.
func (f *openFile) lastBefore(id uint64) bool {
	m, _, err := f.readHead()
	return err == nil && m.txid < id
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
	at := int64(m.txid%2) * m.pageSize
	if _, err := f.file.WriteAt(head[at:at+m.pageSize], at); err != nil {
		return err
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	f.unsynced = false
	return nil
}

func (f *openFile) beginUpdate(bt *bbolt.Tx) (*tx, error) {
	id := uint64(bt.ID()) //nolint:gosec // as in view
	t, err := f.begin(id, uint64(bt.Cursor().Bucket().Root()), id-1)
	if err != nil {
		return nil, err
	}
	// bbolt lets the file grow by this, or to what is mapped if that is less.
	f.db.AllocSize = int(max(minGrowth, min(bt.Size(), maxGrowth)))
	t.walked = map[string]bool{}
	if t.bucket = bt.Bucket(bucketName); t.bucket == nil {
		return nil, damaged("its bucket is missing")
	}
	return t, nil
}

// walk makes sure that bbolt can follow the pages to key: it would recurse on
// pages that point back, and nothing recovers from a stack that is used up.
func (t *tx) walk(key []byte) error {
	if t.walked[string(key)] {
		return nil
	}
	if _, _, err := lookup(t.file, t.meta.pageSize, t.root, key, nil); err != nil {
		return err
	}
	t.walked[string(key)] = true
	return nil
}

// get returns what is stored under key, which must be there. It is valid until
// the transaction ends.
func (t *tx) get(key []byte) (v []byte, err error) {
	if t.bucket == nil {
		v, _, err = lookup(t.file, t.meta.pageSize, t.root, key, t.pages)
	} else if err = t.walk(key); err == nil {
		v = t.bucket.Get(key) // with what this transaction has changed
	}
	if err == nil && v == nil {
		err = damaged("something that must be there is missing")
	}
	return v, err
}

func (t *tx) put(key, v []byte) error {
	if err := t.walk(key); err != nil {
		return err
	}
	return t.bucket.Put(key, v)
}

func (t *tx) remove(key []byte) error {
	if err := t.walk(key); err != nil {
		return err
	}
	return t.bucket.Delete(key)
}

func nodeKey(prefix []byte) []byte { return append([]byte{nodePrefix}, prefix...) }
func recordKey(n name) []byte      { return append([]byte{recordPrefix}, n[:]...) }

// boundTo is the associated data of what is stored under key, written as version.
func boundTo(key []byte, version uint64, part string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte(part), version), key...)
}

func seal(a cipher.AEAD, plain, bound []byte) []byte {
	b := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	_, _ = rand.Read(b) // never fails (Go 1.24)
	return a.Seal(b, b, plain, bound)
}

func unseal(a cipher.AEAD, b, bound []byte) ([]byte, error) {
	if len(b) < chacha20poly1305.NonceSizeX {
		return nil, damaged("something sealed is cut short")
	}
	plain, err := a.Open(nil, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], bound)
	if err != nil {
		return nil, damaged("something sealed was changed")
	}
	return plain, nil
}

// lookNode is loadNode for those who only look: what is known of the node will do.
// What a transaction has written itself is never known.
func (t *tx) lookNode(prefix []byte, version uint64) (node, error) {
	if t.bucket != nil && version == t.id {
		return t.loadNode(prefix, version)
	}
	if n, ok := t.nodes.get(prefix, version); ok {
		return n, nil
	}
	n, err := t.loadNode(prefix, version)
	if err == nil {
		t.nodes.put(prefix, version, n)
	}
	return n, err
}

func (t *tx) loadNode(prefix []byte, version uint64) (node, error) {
	key := nodeKey(prefix)
	b, err := t.get(key)
	if err != nil {
		return node{}, err
	}
	plain, err := unseal(t.keys.node, b, boundTo(key, version, "node"))
	if err != nil {
		return node{}, err
	}
	return decodeNode(plain)
}

func (t *tx) saveNode(prefix []byte, n *node) error {
	key := nodeKey(prefix)
	if n == nil {
		return t.remove(key)
	}
	return t.put(key, seal(t.keys.node, n.encode(), boundTo(key, t.id, "node")))
}

// sealedInfo is [store.Info] in a record.
type sealedInfo struct {
	Org     string     `json:"org"`
	Domain  string     `json:"domain,omitempty"`
	Project string     `json:"project,omitempty"`
	Key     string     `json:"key"`
	Type    store.Type `json:"type,omitempty"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
}

// saveRecord stores a secret as version t.id, and its name in the index.
func (t *tx) saveRecord(n name, info store.Info, v secret.Value) error {
	if err := t.putRecord(n, info, v); err != nil {
		return err
	}
	return t.index.set(entry{n, t.id})
}

func (t *tx) putRecord(n name, info store.Info, v secret.Value) error {
	r := info.Ref
	plain, err := json.Marshal(sealedInfo{r.Org, r.Domain, r.Project, r.Key, info.Type, info.Created, info.Updated})
	if err != nil {
		return err
	}
	key := recordKey(n)
	head := seal(t.keys.record, plain, boundTo(key, t.id, "info"))
	b := binary.BigEndian.AppendUint16(nil, uint16(len(head))) //nolint:gosec // names are bounded: under 1 KiB
	b = append(append(b, head...), seal(t.keys.record, v.Reveal(), boundTo(key, t.id, "value"))...)
	return t.put(key, b)
}

// loadInfo opens the info of the record e, and returns its sealed value.
func (t *tx) loadInfo(e entry) (info store.Info, value []byte, err error) {
	key := recordKey(e.name)
	b, err := t.get(key)
	if err != nil {
		return info, nil, err
	}
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return info, nil, damaged("a record is cut short")
	}
	head, value := b[2:2+binary.BigEndian.Uint16(b)], b[2+binary.BigEndian.Uint16(b):]
	plain, err := unseal(t.keys.record, head, boundTo(key, e.version, "info"))
	if err != nil {
		return info, nil, err
	}
	var i sealedInfo
	if err := json.Unmarshal(plain, &i); err != nil {
		return info, nil, damaged("a record is malformed")
	}
	ref := secret.Ref{Scope: secret.Scope{Org: i.Org, Domain: i.Domain, Project: i.Project}, Key: i.Key}
	return store.Info{Ref: ref, Type: i.Type, Created: i.Created, Updated: i.Updated}, value, nil
}

func (t *tx) loadValue(e entry) (secret.Value, store.Info, error) {
	info, sealedValue, err := t.loadInfo(e)
	if err != nil {
		return secret.Value{}, info, err
	}
	plain, err := unseal(t.keys.record, sealedValue, boundTo(recordKey(e.name), e.version, "value"))
	if err != nil {
		return secret.Value{}, store.Info{}, err
	}
	return secret.NewValue(plain), info, nil
}

// find returns the index's entry of ref, or [secret.ErrNotFound].
func (t *tx) find(ref secret.Ref) (entry, error) {
	n := t.keys.nameOf(ref)
	version, err := t.index.find(n)
	if err == nil && version == 0 {
		err = secret.ErrNotFound
	}
	return entry{n, version}, err
}

// read runs fn in a read transaction with the entry of ref.
func (s *Store) read(ctx context.Context, op string, ref secret.Ref, fn func(*tx, entry) error) error {
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

// use runs fn while the file is open, or returns absent if there is none. A file
// that another process has made since is opened: a server that was started
// without one must not say that there is nothing in it.
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

// errClosed is not absence, of which the ladder would make a wider scope's value.
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
		err = fileError(s.o.Path, err)
	}
	return &secret.Error{Op: op, Ref: ref, Err: err}
}

// Get implements [store.Reader].
func (s *Store) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	err = s.read(ctx, "get", ref, func(t *tx, e entry) (err error) {
		v, info, err = t.loadValue(e)
		return err
	})
	return v, info, err
}

// Describe implements [store.Lister].
func (s *Store) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = s.read(ctx, "describe", ref, func(t *tx, e entry) (err error) {
		info, _, err = t.loadInfo(e)
		return err
	})
	return info, err
}

// List implements [store.Lister]. The order is that of the names' hashes.
func (s *Store) List(ctx context.Context, f store.Filter, limit int, token string) (page []store.Info, next string, err error) {
	if limit < 1 {
		limit = listPage
	}
	if err := ctx.Err(); err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	var empty error
	if token != "" {
		empty = errNotOurToken
	}
	err = s.use(ctx, empty, func() error {
		after, err := s.keys.parseToken(token)
		if err != nil {
			return err
		}
		var last name
		err = s.view(func(t *tx) error {
			return t.index.walk(after, func(e entry) (bool, error) {
				if err := ctx.Err(); err != nil {
					return false, err
				}
				if len(page) == limit {
					next = s.keys.newToken(last)
					return false, nil
				}
				info, _, err := t.loadInfo(e)
				if err == nil && f.Match(info.Ref) {
					page = append(page, info)
				}
				last = e.name
				return true, err
			})
		})
		if err != nil {
			return fileError(s.o.Path, err)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	return page, next, nil
}

var errNotOurToken = fmt.Errorf("%w: the token is not of this store", secret.ErrInvalid)

// A token is the name after which a page begins, and a tag that shows that it
// is ours: any other 32 bytes would be a place to begin, too.
func (k *keys) newToken(n name) string {
	return base64.RawURLEncoding.EncodeToString(append(n[:], k.tag(n)...))
}

func (k *keys) tag(n name) []byte {
	h := hmac.New(sha256.New, k.token)
	_, _ = h.Write(n[:])
	return h.Sum(nil)[:16]
}

func (k *keys) parseToken(token string) (*name, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // no token begins at the beginning
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != nameSize+16 || !hmac.Equal(b[nameSize:], k.tag(name(b[:nameSize]))) {
		return nil, errNotOurToken
	}
	n := name(b[:nameSize])
	return &n, nil
}

var errReading = fmt.Errorf("%w: the store is open for reading", secret.ErrInvalid)

// change runs fn in a write transaction.
func (s *Store) change(ctx context.Context, op string, ref secret.Ref, v secret.Value, fn func(*tx) error) error {
	err := errors.Join(ctx.Err(), store.Writable(ref, v))
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

// make makes the file and opens it, if it is not open yet.
func (s *Store) make(ctx context.Context) error {
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
				// bbolt keeps small buckets (a quarter of a page) inside their parent's page,
				// where checkPath cannot walk.
				b.Put(paddingKey, make([]byte, db.Info().PageSize/2)),
				b.Put(root, seal(keys.node, (&node{}).encode(), boundTo(root, id, "node"))),
			)
		})
		return errors.Join(err, db.Close())
	})
	switch {
	case err == nil:
		s.o.Key.notice("made the store " + s.o.Path)
	case errors.Is(err, fs.ErrExist): // someone else was quicker
	default:
		return secret.WithHint(fmt.Errorf("%w: nothing was created: make the store: %w", secret.ErrUnavailable, err), "see that %s can be written and has room", s.o.Path)
	}
	return s.open(ctx)
}

// Create implements [store.Manager]. The first one makes the store file and,
// before it, the key file.
func (s *Store) Create(ctx context.Context, ref secret.Ref, v secret.Value, typ store.Type) error {
	return s.change(ctx, "create", ref, v, func(t *tx) error {
		e, err := t.find(ref)
		if err == nil {
			return secret.ErrExists
		}
		if !errors.Is(err, secret.ErrNotFound) {
			return err
		}
		now := time.Now().UTC().Round(0)
		return t.saveRecord(e.name, store.Info{Ref: ref, Type: typ, Created: now, Updated: now}, v)
	})
}

// Update implements [store.Manager].
func (s *Store) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
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
		return t.saveRecord(e.name, info, v)
	})
}

// Delete implements [store.Manager].
func (s *Store) Delete(ctx context.Context, ref secret.Ref) error {
	return s.change(ctx, "delete", ref, secret.Value{}, func(t *tx) error {
		e, err := t.find(ref)
		if err != nil {
			return err
		}
		if err := t.remove(recordKey(e.name)); err != nil {
			return err
		}
		return t.index.set(entry{name: e.name})
	})
}
