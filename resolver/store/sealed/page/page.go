// Package page reads the pages of a bbolt file and trusts none of them: on every file, however
// damaged, a read ends with a value, with absence or with [secret.ErrCorrupt]. bbolt itself maps
// the file and recurses over its pages, so a damaged file can make it fault or exhaust the stack.
//
// A value is as bbolt would find it. Whether it is genuine is for the caller to check.
package page

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"sort"

	"inject/resolver/secret"
)

// The parts of bbolt's file format, version 2, that a lookup needs (go.etcd.io/bbolt,
// internal/common). Sizes are in bytes. Integers have the byte order of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	// Of a page: id 8, flags 2, number of elements 2, number of further pages 4.
	pageHeaderSize = 16
	// Of a branch: offset 4 and length 4 of the key, id 8 of the page below.
	// Of a leaf: flags 4, offset 4 and length 4 of the key, length 4 of the value behind it.
	elementSize = 16
	// Magic 4, version 4, page size 4, flags 4, root 16, page of the free list 8, pages 8,
	// transaction 8, checksum 8.
	metaSize     = 64
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10    // the ids of the free pages, in order; if there are 0xFFFF or more, their number first
	bucketFlag   = 0x01    // of an element of a leaf: its value is a bucket, which begins with the id of its root
	maxDepth     = 32      // levels of pages; a million secrets need five
	maxElement   = 2 << 20 // bytes of a key or value; the longest record is shorter
)

var native = binary.NativeEndian

// Meta is the content of a meta page. A file has two, which transactions write in turn.
type Meta struct {
	PageSize int64
	Root     uint64 // the root page of the bucket of buckets
	Freelist uint64 // the page that lists the free pages
	Pages    uint64 // the number of pages in the file, which may be longer
	TxID     uint64
}

// ErrForeign is the error of [ReadMetas] for a file that bbolt did not write.
var ErrForeign = fmt.Errorf("%w: not a file of bbolt", secret.ErrInvalid)

// ReadMetas returns the current meta page of the file f, which is size bytes long. Both meta pages
// must be whole and belong to successive transactions, and the file must be as long as they say.
func ReadMetas(f io.ReaderAt, size int64) (Meta, error) {
	first, err := readMeta(f, 0)
	if err != nil {
		// The page size is only in the meta page that cannot be read. Try the usual size, to
		// distinguish a damaged store from a file of another kind.
		if _, err2 := readMeta(f, 4096); err2 != nil && size > 0 && !hasMagic(f, 0) && !hasMagic(f, 4096) {
			return Meta{}, ErrForeign
		}
		return Meta{}, err
	}
	second, err := readMeta(f, first.PageSize)
	if err != nil {
		return Meta{}, err
	}
	last := max(first.TxID, second.TxID)
	if min(first.TxID, second.TxID)+1 != last || first.PageSize != second.PageSize {
		return Meta{}, damaged("the two meta pages do not belong together")
	}
	current := first
	if second.TxID == last {
		current = second
	}
	if current.Pages > uint64(size/current.PageSize) { //nolint:gosec // neither is negative
		return Meta{}, damaged("the file is cut short: %d pages of %d", size/current.PageSize, current.Pages)
	}
	return current, nil
}

func hasMagic(f io.ReaderAt, at int64) bool {
	var b [4]byte
	_, err := f.ReadAt(b[:], at+pageHeaderSize)
	return err == nil && native.Uint32(b[:]) == boltMagic
}

func readMeta(f io.ReaderAt, at int64) (Meta, error) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], at+pageHeaderSize); err != nil {
		return Meta{}, damaged("no meta page at byte %d", at)
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if native.Uint32(b[:]) != boltMagic || native.Uint32(b[4:]) != boltVersion ||
		native.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return Meta{}, damaged("the meta page at byte %d is not whole", at)
	}
	m := Meta{
		PageSize: int64(native.Uint32(b[8:])),
		Root:     native.Uint64(b[16:]),
		Freelist: native.Uint64(b[32:]),
		Pages:    native.Uint64(b[40:]),
		TxID:     native.Uint64(b[48:]),
	}
	if m.PageSize < 512 || m.PageSize > 1<<16 || m.PageSize&(m.PageSize-1) != 0 {
		return Meta{}, damaged("the meta page at byte %d is not whole", at)
	}
	return m, nil
}

// page is one page, or several that belong together. The first is in memory; bytes of the others
// are read when they are needed.
type page struct {
	f     io.ReaderAt
	at    int64 // its offset in the file
	size  int64
	first []byte
}

// readPage returns the page id. Its first page is read into buf, whose length is the page size.
func readPage(f io.ReaderAt, id uint64, buf []byte) (page, error) {
	if id > 1<<40 {
		return page{}, damaged("there is no page %d", id)
	}
	pageSize := int64(len(buf))
	p := page{f: f, at: int64(id) * pageSize, first: buf}
	if _, err := f.ReadAt(p.first, p.at); err != nil {
		return page{}, damaged("there is no page %d", id)
	}
	if native.Uint64(p.first) != id {
		return page{}, damaged("page %d says that it is another", id)
	}
	p.size = pageSize * (1 + int64(native.Uint32(p.first[12:])))
	return p, nil
}

func (p page) kind() uint16 { return native.Uint16(p.first[8:]) }
func (p page) count() int   { return int(native.Uint16(p.first[10:])) }

// bytes returns n bytes of p from the offset at.
func (p page) bytes(at, n int64) ([]byte, error) {
	if n > maxElement || at+n > p.size {
		return nil, damaged("a page is malformed")
	}
	if at+n <= int64(len(p.first)) {
		return p.first[at : at+n], nil
	}
	b := make([]byte, n)
	if _, err := p.f.ReadAt(b, p.at+at); err != nil {
		return nil, damaged("the file is cut short")
	}
	return b, nil
}

// element returns the element i and its key. next is the offset behind the key.
func (p page) element(i int) (e, key []byte, next int64, err error) {
	at := int64(pageHeaderSize + i*elementSize)
	if e, err = p.bytes(at, elementSize); err != nil {
		return nil, nil, 0, err
	}
	place := e // where the offset and the length of the key are
	if p.kind() == leafPage {
		place = e[4:]
	}
	at += int64(native.Uint32(place))
	n := int64(native.Uint32(place[4:]))
	key, err = p.bytes(at, n)
	return e, key, at + n, err
}

// search returns the first element whose key is not less than key, as bbolt does
// (Cursor.searchPage and nsearch), and whether it is the same.
func (p page) search(key []byte) (i int, exact bool, err error) {
	i = sort.Search(p.count(), func(i int) bool {
		_, k, _, e := p.element(i)
		if e != nil {
			err = e
			return true
		}
		c := bytes.Compare(k, key)
		exact = exact || c == 0
		return c >= 0
	})
	return i, exact, err
}

// Reader looks keys up in the pages of a file. It reads each page into the memory of the one
// before. Not safe for concurrent use.
type Reader struct {
	file io.ReaderAt
	buf  []byte
}

// NewReader returns a Reader of file, whose pages have pageSize bytes.
func NewReader(file io.ReaderAt, pageSize int64) *Reader {
	return &Reader{file, make([]byte, pageSize)}
}

// Lookup returns the value of key in the tree of pages below root, and the flags of its element.
// The value is nil if the key is absent, and valid until the next lookup. Lookup takes the path
// that bbolt takes.
func (r *Reader) Lookup(root uint64, key []byte) (value []byte, flags uint32, err error) {
	id := root
	for range maxDepth {
		p, err := readPage(r.file, id, r.buf)
		if err != nil {
			return nil, 0, err
		}
		i, exact, err := p.search(key)
		switch {
		case err != nil:
			return nil, 0, err
		case p.kind() == leafPage && !exact:
			return nil, 0, nil
		case p.kind() == leafPage:
			e, _, next, err := p.element(i)
			if err != nil {
				return nil, 0, err
			}
			value, err = p.bytes(next, int64(native.Uint32(e[12:])))
			return value, native.Uint32(e), err
		case p.kind() != branchPage || p.count() == 0:
			return nil, 0, damaged("page %d is of a wrong kind", id)
		}
		if !exact && i > 0 {
			i--
		}
		e, _, _, err := p.element(i)
		if err != nil {
			return nil, 0, err
		}
		id = native.Uint64(e[8:])
	}
	return nil, 0, damaged("the pages lead nowhere")
}

// Bucket returns the root page of the bucket called name. root is the root page of the bucket of
// buckets, as in [Meta].
func (r *Reader) Bucket(root uint64, name []byte) (uint64, error) {
	v, flags, err := r.Lookup(root, name)
	if err != nil {
		return 0, err
	}
	if len(v) < 8 || flags&bucketFlag == 0 || native.Uint64(v) == 0 {
		return 0, damaged("its bucket is missing")
	}
	return native.Uint64(v), nil
}

// damaged returns an error that wraps [secret.ErrCorrupt].
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{secret.ErrCorrupt}, args...)...)
}
