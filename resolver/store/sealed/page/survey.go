package page

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
)

// Set is a set of pages of a file, as one bit for each.
type Set []uint64

func newSet(pages uint64) Set { return make(Set, pages/64+1) }

// Has reports whether the page id is in s.
func (s Set) Has(id uint64) bool { return s[id/64]&(1<<(id%64)) != 0 }

func (s Set) add(id uint64) { s[id/64] |= 1 << (id % 64) }

// End returns the end of the run of pages from id on that are all in s, or all not in s. It is at
// most limit.
func (s Set) End(id, limit uint64) uint64 {
	in := s.Has(id)
	for id < limit && s.Has(id) == in {
		id++
	}
	return id
}

// survey is a Survey under way.
type survey struct {
	f    io.ReaderAt
	m    Meta
	used Set // includes the two meta pages
}

// Survey reads every page that the transaction of the meta page m uses, and returns the set of
// them. It checks what bbolt relies on: each page is in one place of the tree and not in the list
// of free pages, and keys are in order. The file must have exactly one bucket, called name,
// without buckets inside. Survey calls each with every key in it. It needs memory for one bit per
// page.
func Survey(ctx context.Context, f io.ReaderAt, m Meta, name []byte, each func(key []byte)) (used Set, err error) {
	s := &survey{f: f, m: m, used: newSet(m.Pages)}
	s.used.add(0)
	s.used.add(1)

	ours := uint64(0)
	err = s.tree(ctx, m.Root, nil, nil, 0, func(p page, key []byte, flags uint32, at, n int64) error {
		v, err := p.bytes(at, n)
		if err == nil && (ours != 0 || flags&bucketFlag == 0 || len(v) < 8 || !bytes.Equal(key, name)) {
			err = damaged("there is something beside its bucket")
		}
		if err == nil {
			ours = native.Uint64(v)
		}
		return err
	})

	if err == nil {
		// The root of an inline bucket is 0, a meta page, which take refuses.
		err = s.tree(ctx, ours, nil, nil, 0, func(_ page, key []byte, flags uint32, _, _ int64) error {
			if flags != 0 || len(key) == 0 {
				return damaged("there is something in its bucket that does not belong there")
			}
			each(key)
			return nil
		})
	}

	if err == nil {
		err = s.free(ctx)
	}
	return s.used, err
}

// take reads the page id and marks it, and the pages that belong to it, as used. A page that is
// used already is damage.
func (s *survey) take(id uint64) (page, error) {
	if id < 2 || id >= s.m.Pages {
		return page{}, damaged("there is no page %d", id)
	}
	p, err := readPage(s.f, id, make([]byte, s.m.PageSize)) // its own memory: the pages above it are in use
	if err != nil {
		return page{}, err
	}
	n := uint64(p.size / s.m.PageSize) //nolint:gosec // positive
	if n > s.m.Pages-id {
		return page{}, damaged("page %d is longer than the file", id)
	}
	for i := id; i < id+n; i++ {
		if s.used.Has(i) {
			return page{}, damaged("page %d is in two places", i)
		}
		s.used.add(i)
	}
	return p, nil
}

// tree surveys the page id and all pages below it. Their keys must not be less than least and,
// unless below is nil, must be less than below. tree calls each with every element of a leaf: the
// page, the key, the flags, and the offset and length of the value.
func (s *survey) tree(
	ctx context.Context, id uint64, least, below []byte, depth int,
	each func(p page, key []byte, flags uint32, at, n int64) error,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth == maxDepth {
		return damaged("the pages lead nowhere")
	}

	p, err := s.take(id)
	if err != nil {
		return err
	}
	if p.kind() != leafPage && (p.kind() != branchPage || p.count() == 0) {
		return damaged("page %d is of a wrong kind", id)
	}

	var last []byte
	for i := range p.count() {
		e, key, at, err := p.element(i)
		if err != nil {
			return err
		}
		if i == 0 && bytes.Compare(key, least) < 0 ||
			i > 0 && bytes.Compare(key, last) <= 0 ||
			below != nil && bytes.Compare(key, below) >= 0 {
			return damaged("the keys of page %d are not in order", id)
		}
		last = key
		if p.kind() == leafPage {
			n := int64(native.Uint32(e[12:]))
			if n > maxElement || at+n > p.size {
				return damaged("page %d is malformed", id)
			}
			if err := each(p, key, native.Uint32(e), at, n); err != nil {
				return err
			}
			continue
		}

		end := below
		if i+1 < p.count() {
			if _, end, _, err = p.element(i + 1); err != nil {
				return err
			}
		}
		if err := s.tree(ctx, native.Uint64(e[8:]), key, end, depth+1, each); err != nil {
			return err
		}
	}
	return nil
}

// free checks that no page in the list of free pages is used: bbolt will overwrite them.
func (s *survey) free(ctx context.Context) error {
	p, err := s.take(s.m.Freelist)
	if err != nil {
		return err
	}
	if p.kind() != freelistPage {
		return damaged("page %d is of a wrong kind", s.m.Freelist)
	}

	n, at := int64(p.count()), int64(pageHeaderSize)
	if n == 0xFFFF { // the number is too large for the header
		b, err := p.bytes(at, 8)
		if err != nil {
			return err
		}
		n, at = int64(min(native.Uint64(b), s.m.Pages)), at+8 //nolint:gosec // bounded
	}
	if n > (p.size-at)/8 {
		return damaged("page %d is malformed", s.m.Freelist)
	}

	ids := bufio.NewReader(io.NewSectionReader(s.f, p.at+at, 8*n))
	last := uint64(1)
	for range n {
		var id uint64
		if err := binary.Read(ids, native, &id); err != nil {
			return damaged("the file is cut short")
		}
		if id <= last || id >= s.m.Pages || s.used.Has(id) {
			return damaged("page %d is not as free as the list of free pages says", id)
		}
		last = id
	}
	return ctx.Err()
}
