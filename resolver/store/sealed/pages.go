package sealed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"sort"
	"sync"

	"inject/resolver/secret"
)

// bbolt's file format, version 2 (go.etcd.io/bbolt, internal/common): as much of
// it as it takes to see that bbolt can follow it. Integers are in the machine's
// own byte order.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeaderSize = 16 // id 8, flags 2, count 2, overflow 4
	elementSize    = 16 // a branch's: key's offset 4, key's length 4, page 8
	metaSize       = 64 // magic 4, version 4, page size 4, flags 4, root 16, freelist 8, pages 8, txid 8, checksum 8
	branchPage     = 0x01
	leafPage       = 0x02
	maxDepth       = 32   // of pages; four levels hold a million secrets
	maxBranchPages = 1024 // that one branch may span
)

var native = binary.NativeEndian

// meta is what a meta page says.
type meta struct {
	pageSize int64
	pages    uint64 // the file's length in pages, at least
	txid     uint64
}

// checkMetas returns nil when both meta pages of the file of that size are whole,
// belong to successive transactions, and the file is as long as they need.
func checkMetas(f io.ReaderAt, size int64) error {
	first, err := readMeta(f, 0)
	if err != nil {
		// The only place that knows the page size is gone; try the usual one to tell
		// a damaged store from a file that never was one.
		if _, err2 := readMeta(f, 4096); err2 != nil && size > 0 && !hasMagic(f, 0) && !hasMagic(f, 4096) {
			return secret.WithHint(fmt.Errorf("%w: not a store file", secret.ErrInvalid), "give --store the path of a file that inject made, or of one that does not exist yet")
		}
		return err
	}
	second, err := readMeta(f, first.pageSize)
	if err != nil {
		return err
	}
	last := max(first.txid, second.txid)
	if min(first.txid, second.txid)+1 != last || first.pageSize != second.pageSize {
		return damaged("the two meta pages do not belong together")
	}
	current := first
	if second.txid == last {
		current = second
	}
	if current.pages > uint64(size/current.pageSize) { //nolint:gosec // neither is negative
		return damaged("the file is cut short: %d pages of %d", size/current.pageSize, current.pages)
	}
	return nil
}

func hasMagic(f io.ReaderAt, at int64) bool {
	var b [4]byte
	_, err := f.ReadAt(b[:], at+pageHeaderSize)
	return err == nil && native.Uint32(b[:]) == boltMagic
}

func readMeta(f io.ReaderAt, at int64) (meta, error) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], at+pageHeaderSize); err != nil {
		return meta{}, damaged("no meta page at byte %d", at)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if native.Uint32(b[:]) != boltMagic || native.Uint32(b[4:]) != boltVersion || native.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return meta{}, damaged("the meta page at byte %d is not whole", at)
	}
	m := meta{pageSize: int64(native.Uint32(b[8:])), pages: native.Uint64(b[40:]), txid: native.Uint64(b[48:])}
	if m.pageSize < 512 || m.pageSize > 1<<16 || m.pageSize&(m.pageSize-1) != 0 {
		return meta{}, damaged("the meta page at byte %d is not whole", at)
	}
	return m, nil
}

// pageCache is branch pages of a file that does not change. A nil one holds
// nothing.
type pageCache struct {
	mu    sync.Mutex
	known map[uint64][]byte // by number
}

func (c *pageCache) get(id uint64) ([]byte, bool) {
	if c == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	page, ok := c.known[id]
	return page, ok
}

func (c *pageCache) put(id uint64, page []byte) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[id] = page
}

// checkPath walks from the page root to the leaf in which bbolt would look for
// key, choosing as bbolt does, and returns an error if there is no way there.
func checkPath(f io.ReaderAt, pageSize int64, root uint64, key []byte, cache *pageCache) error {
	id := root
	for range maxDepth {
		page, ok := cache.get(id)
		if !ok {
			var err error
			if page, err = readPage(f, pageSize, id); err != nil {
				return err
			}
			if native.Uint16(page[8:]) == leafPage {
				return nil
			}
			cache.put(id, page)
		}
		child, ok := branchChild(page, int(native.Uint16(page[10:])), key)
		if !ok {
			return damaged("page %d is malformed", id)
		}
		id = child
	}
	return damaged("the pages lead nowhere")
}

// readPage returns the page id: all of a branch, the beginning of a leaf.
func readPage(f io.ReaderAt, pageSize int64, id uint64) ([]byte, error) {
	if id > 1<<40 {
		return nil, damaged("there is no page %d", id)
	}
	at := int64(id) * pageSize
	page := make([]byte, pageSize)
	if _, err := f.ReadAt(page, at); err != nil {
		return nil, damaged("there is no page %d", id)
	}
	if native.Uint64(page) != id {
		return nil, damaged("page %d says that it is another", id)
	}
	overflow := int64(native.Uint32(page[12:]))
	switch native.Uint16(page[8:]) {
	case leafPage:
		return page, nil
	case branchPage:
		if overflow == 0 {
			return page, nil
		}
		if overflow >= maxBranchPages {
			return nil, damaged("page %d is malformed", id)
		}
		page = make([]byte, (overflow+1)*pageSize)
		if _, err := f.ReadAt(page, at); err != nil {
			return nil, damaged("there is no page %d", id)
		}
		return page, nil
	}
	return nil, damaged("page %d is of a wrong kind", id)
}

// branchChild returns the page below a branch in which bbolt looks for key
// (Cursor.searchPage): the last whose first key is not greater.
func branchChild(page []byte, count int, key []byte) (uint64, bool) {
	ok, exact := true, false
	element := func(i int) []byte {
		at := pageHeaderSize + i*elementSize
		if at+elementSize > len(page) {
			ok = false
			return nil
		}
		return page[at:]
	}
	if count == 0 {
		return 0, false
	}
	i := sort.Search(count, func(i int) bool {
		e := element(i)
		if e == nil {
			return true
		}
		start := int64(pageHeaderSize+i*elementSize) + int64(native.Uint32(e))
		end := start + int64(native.Uint32(e[4:]))
		if end > int64(len(page)) {
			ok = false
			return true
		}
		c := bytes.Compare(page[start:end], key)
		exact = exact || c == 0
		return c >= 0
	})
	if !exact && i > 0 {
		i--
	}
	e := element(i)
	if !ok || e == nil || i >= count {
		return 0, false
	}
	return native.Uint64(e[8:]), true
}
