package sealed

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// What is kept of the file, in bytes: of a million secrets all inner nodes of the index
// and all branch pages, and of the leaves what a third of the secrets are in. All leaves
// would take a third of the time off a lookup (BenchmarkGetMany), and with what the
// collector lets lie 40 MiB more.
const (
	keepInner    = 8 << 20
	keepLeaves   = 8 << 20
	keepBranches = 8 << 20
)

// seen is what was read of the file on the way to records, and opened: a lookup
// among a million secrets reads the page of the record, and hardly more, as one among
// a thousand does. It holds no record.
type seen struct {
	nodes nodeCache
	mu    sync.Mutex
	pages *pageCache // of the latest transaction that was read
}

func newSeen() *seen {
	return &seen{nodes: nodeCache{inner: newCache[uint64, knownInner](keepInner), leaves: newCache[uint64, knownLeaf](keepLeaves)}}
}

// pagesAt returns the pages that are known of the transaction txid, nil if none can
// be kept: a later one may have used them again for something else.
func (s *seen) pagesAt(txid uint64) *pageCache {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages == nil || s.pages.txid < txid {
		s.pages = newPageCache(txid)
	}
	if s.pages.txid > txid {
		return nil
	}
	return s.pages
}

// nodeCache is nodes of the index, each with the version it was written as: who asks
// for another is not given it, so that nothing has to be dropped when something is
// written. Only what is committed is put into it, since a version is used again when
// its transaction fails, and what is in it is never changed. A nil one holds nothing.
type nodeCache struct {
	inner  *cache[uint64, knownInner]
	leaves *cache[uint64, knownLeaf]
}

type knownInner struct {
	version  uint64
	children []uint64
}

type knownLeaf struct {
	version uint64
	short   []shortEntry
}

// shortEntry stands for an entry of a leaf: 12 bytes of its name, from where
// the leaf's prefix ends, and its version. For another name to have the same 96 bits
// of a keyed hash is not to be expected; if it did, a lookup would find no record
// that fits, and say that the store is damaged.
type shortEntry [shortSize + 8]byte

const shortSize = 12

// shorten returns the short form of the leaf n at a prefix of depth bytes.
func shorten(n node, depth int) []shortEntry {
	short := make([]shortEntry, len(n.leaf))
	for i, e := range n.leaf {
		copy(short[i][:shortSize], e.name[depth:])
		binary.BigEndian.PutUint64(short[i][shortSize:], e.version)
	}
	return short
}

// searchShort returns the version of want, 0 if there is none.
func searchShort(short []shortEntry, want []byte) uint64 {
	i, ok := slices.BinarySearchFunc(short, want, func(e shortEntry, want []byte) int { return bytes.Compare(e[:shortSize], want) })
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(short[i][shortSize:])
}

// nodeID returns a number for the node at prefix, unless it is deeper than the nodes
// of any store that fits on a disk.
func nodeID(prefix []byte) (id uint64, ok bool) {
	if len(prefix) > 7 {
		return 0, false
	}
	var b [8]byte
	b[0] = byte(len(prefix)) //nolint:gosec // at most 7
	copy(b[1:], prefix)
	return binary.BigEndian.Uint64(b[:]), true
}

// get returns a node that is good for a lookup.
func (c *nodeCache) get(prefix []byte, version uint64) (n node, ok bool) {
	id, ok := nodeID(prefix)
	if c == nil || !ok {
		return node{}, false
	}
	if in, ok := c.inner.get(id); ok && in.version == version {
		return node{children: in.children}, true
	}
	l, ok := c.leaves.get(id)
	return node{short: l.short}, ok && l.version == version
}

func (c *nodeCache) put(prefix []byte, version uint64, n node) {
	id, ok := nodeID(prefix)
	switch {
	case c == nil || !ok:
	case n.children != nil:
		c.inner.put(id, knownInner{version, n.children}, fanOut*8)
	default:
		c.leaves.put(id, knownLeaf{version, shorten(n, len(prefix))}, len(n.leaf)*(shortSize+8))
	}
}

// pageCache is the branch pages of one transaction. A nil one holds nothing.
type pageCache struct {
	txid     uint64
	bucket   atomic.Uint64 // the bucket's root page; 0 if it is not known yet
	branches *cache[uint64, *branch]
}

func newPageCache(txid uint64) *pageCache {
	return &pageCache{txid: txid, branches: newCache[uint64, *branch](keepBranches)}
}

func (c *pageCache) get(id uint64) (*branch, bool) {
	if c == nil {
		return nil, false
	}
	return c.branches.get(id)
}

// put keeps the branch page p.
func (c *pageCache) put(id uint64, p page) error {
	if c == nil {
		return nil
	}
	b, err := newBranch(p)
	if err == nil {
		c.branches.put(id, b, len(b.keys)+len(b.pages)*(8+8+4))
	}
	return err
}

// branch is a branch page in a form that is small, and quick to search.
type branch struct {
	heads []uint64 // the beginnings of the keys
	ends  []uint32 // where they end in keys
	keys  []byte
	pages []uint64
}

func newBranch(p page) (*branch, error) {
	n := p.count()
	b := &branch{heads: make([]uint64, n), ends: make([]uint32, n), pages: make([]uint64, n)}
	for i := range n {
		e, key, _, err := p.element(i)
		if err != nil {
			return nil, err
		}
		b.keys = append(b.keys, key...)
		b.heads[i], b.ends[i], b.pages[i] = head(key), uint32(len(b.keys)), native.Uint64(e[8:]) //nolint:gosec // keys of a page, which are bounded
	}
	b.keys = slices.Clip(b.keys)
	return b, nil
}

// head returns a number for the beginning of key: that of a greater key is not less.
func head(key []byte) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// child returns the page that key is below: that of the last element whose key is
// not greater, or else the first.
func (b *branch) child(key []byte) uint64 {
	h := head(key)
	i := sort.Search(len(b.heads), func(i int) bool { return b.heads[i] > h }) - 1
	for i > 0 && b.heads[i] == h && bytes.Compare(b.keys[b.ends[i-1]:b.ends[i]], key) > 0 {
		i--
	}
	return b.pages[max(i, 0)]
}

// cache is a map that is held below a number of bytes. What makes room for
// something new is whatever comes first: names are hashes, so that the neighbours of
// what is in demand are not. Safe for concurrent use.
type cache[K comparable, V any] struct {
	mu    sync.RWMutex
	limit int
	size  int
	known map[K]sized[V]
}

type sized[V any] struct {
	v    V
	size int
}

// itemOverhead is about what the map and the allocator take for an item beside its size.
const itemOverhead = 100

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: limit, known: map[K]sized[V]{}}
}

func (c *cache[K, V]) get(key K) (v V, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s, ok := c.known[key]
	return s.v, ok
}

func (c *cache[K, V]) put(key K, v V, size int) {
	size += itemOverhead
	c.mu.Lock()
	defer c.mu.Unlock()
	c.size += size - c.known[key].size
	c.known[key] = sized[V]{v, size}
	for other, s := range c.known { // begins anywhere
		if c.size <= c.limit {
			return
		}
		delete(c.known, other)
		c.size -= s.size
	}
}
