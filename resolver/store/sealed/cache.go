package sealed

import (
	"sync"
	"sync/atomic"
)

// What is kept of the file, in bytes: all of the index of a million secrets but some
// leaves, and all branch pages on the way to them.
const (
	keepInner  = 8 << 20
	keepLeaves = 32 << 20
	keepPages  = 16 << 20
)

// seen is what was read of the file on the way to records, and opened: it leaves a
// lookup little to read, however many secrets there are. It holds no record, and
// nothing that a transaction has yet to commit.
type seen struct {
	nodes nodeCache
	mu    sync.Mutex
	pages *pageCache // of the latest transaction that was read
}

func newSeen() *seen {
	return &seen{nodes: nodeCache{inner: newCache[string, knownNode](keepInner), leaves: newCache[string, knownNode](keepLeaves)}}
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

// nodeCache is nodes of the index by prefix, each with the version it was written
// as: who asks for another is not given it, so that nothing has to be dropped when
// something is written. What is in it is never changed. A nil one holds nothing.
type nodeCache struct{ inner, leaves *cache[string, knownNode] }

type knownNode struct {
	version uint64
	node    node
}

func (c *nodeCache) get(prefix []byte, version uint64) (node, bool) {
	if c == nil {
		return node{}, false
	}
	for _, in := range []*cache[string, knownNode]{c.inner, c.leaves} {
		if k, ok := in.get(string(prefix)); ok && k.version == version {
			return k.node, true
		}
	}
	return node{}, false
}

func (c *nodeCache) put(prefix []byte, version uint64, n node) {
	if c == nil {
		return
	}
	in, size := c.leaves, len(n.leaf)*(nameSize+8)
	if n.children != nil {
		in, size = c.inner, fanOut*8
	}
	in.put(string(prefix), knownNode{version, n}, size)
}

// pageCache is branch pages of one transaction. A nil one holds nothing.
type pageCache struct {
	txid     uint64
	bucket   atomic.Uint64 // the bucket's root page; 0 if it is not known yet
	branches *cache[uint64, page]
}

func newPageCache(txid uint64) *pageCache {
	return &pageCache{txid: txid, branches: newCache[uint64, page](keepPages)}
}

func (c *pageCache) get(id uint64) (page, bool) {
	if c == nil {
		return page{}, false
	}
	return c.branches.get(id)
}

func (c *pageCache) put(id uint64, p page) {
	if c != nil {
		c.branches.put(id, p, len(p.first))
	}
}

// cache is a map that is held below a number of bytes. What makes room for
// something new is whatever comes first: names are hashes, so that the neighbours of
// what is in demand are not.
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
const itemOverhead = 160

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
	if c.size <= c.limit {
		return
	}
	for other, s := range c.known { // begins anywhere
		delete(c.known, other)
		if c.size -= s.size; c.size <= c.limit {
			return
		}
	}
}
