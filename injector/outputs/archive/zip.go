package archive

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// What the records of a zip archive begin with.
const (
	localHeader       = "PK\x03\x04"
	directoryHeader   = "PK\x01\x02"
	directoryEnd      = "PK\x05\x06"
	directory64End    = "PK\x06\x06"
	directory64Locate = "PK\x06\x07"
)

// How long they are, without names and the like.
const (
	localHeaderSize       = 30
	directoryHeaderSize   = 46
	directoryEndSize      = 22
	directory64EndSize    = 56
	directory64LocateSize = 20
)

// zip looks into a zip archive, and reports whether it is one. It reads the
// directory itself, because archive/zip holds all of it.
func (d *Searcher) zip(ctx context.Context, in input, depth int) (bool, error) {
	l := &d.levels[depth]
	if in.at == nil {
		var err error
		if in, err = d.hold(in.r); err != nil {
			return true, err
		}
		defer func() { d.held -= in.size }()
	}
	dir, err := d.findDirectory(in)
	if err != nil {
		return plausible(in), err
	}
	r := reset(&l.directory, io.NewSectionReader(in.at, dir.begin, dir.end-dir.begin), 64<<10)
	n := uint64(0)
	for ; ; n++ {
		e, err := readEntry(r)
		if err == io.EOF { //nolint:errorlint // as readers return it
			break
		}
		if err != nil {
			return has(in, dir.begin, directoryHeader) || plausible(in), err
		}
		if err := d.enter(ctx, depth); err != nil {
			return true, err
		}
		if err := d.member(ctx, in, dir.base, e, depth); err != nil {
			return true, err
		}
	}
	if n != dir.members && (dir.is64 || n&math.MaxUint16 != dir.members) {
		return true, errDamaged
	}
	return true, nil
}

// hold keeps a zip archive that can only be read in order.
func (d *Searcher) hold(r io.Reader) (input, error) {
	var all pages
	var size int64
	for {
		page := make([]byte, min(pageSize, d.bounds.held-d.held-size))
		n, err := fill(r, page)
		all, size = append(all, page), size+int64(n)
		if err == io.EOF { //nolint:errorlint // as readers return it
			d.held += size
			return input{at: all, size: size}, nil
		}
		if err != nil {
			return input{}, err
		}
		if d.held+size == d.bounds.held {
			return input{}, UncheckedError(fmt.Sprintf("a zip archive in it has %d MiB or more", d.bounds.held>>20))
		}
	}
}

// pages are bytes that are held. Of an unknown number, in one slice they would be
// copied again and again.
type pages [][]byte

const pageSize = 256 << 10

// ReadAt implements [io.ReaderAt]. Behind the last byte there may be zeros.
func (p pages) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		i := off / pageSize
		if i >= int64(len(p)) || off%pageSize >= int64(len(p[i])) {
			return n, io.EOF
		}
		more := copy(b[n:], p[i][off%pageSize:])
		n, off = n+more, off+int64(more)
	}
	return n, nil
}

// plausible reports whether what begins like a zip archive and has no directory is
// one that was cut short.
func plausible(in input) bool {
	var b [localHeaderSize]byte
	if _, err := in.at.ReadAt(b[:], 0); err != nil {
		return false
	}
	version, method, name := le.Uint16(b[4:]), le.Uint16(b[8:]), le.Uint16(b[26:])
	return string(b[:4]) == localHeader && version&0xff < 100 && method < 100 && name > 0
}

var le = binary.LittleEndian

// A directory is where that of a zip archive is, and what it says of itself.
type directory struct {
	begin, end int64
	base       int64 // of the archive, before which there may be a program
	members    uint64
	is64       bool // so members is more than its last 16 bits
}

// errTwoWays is for what some programs read and others do not.
const errTwoWays = UncheckedError("damaged: a zip archive that may be read in two ways")

// findDirectory finds the directory of a zip archive.
func (d *Searcher) findDirectory(in input) (directory, error) {
	end, b, err := d.findEnd(in)
	if err != nil {
		return directory{}, err
	}
	if end < 0 {
		return directory{}, errDamaged
	}
	dir := directory{end: end, members: uint64(le.Uint16(b[10:]))}
	size, offset := uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	end64, b, err := findEnd64(in, end)
	if err != nil {
		return directory{}, err
	}
	if b != nil {
		n64, size64, offset64 := le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
		if dir.members != math.MaxUint16 && dir.members != n64 ||
			size != math.MaxUint32 && size != size64 || offset != math.MaxUint32 && offset != offset64 {
			return directory{}, errTwoWays
		}
		dir.end, dir.members, dir.is64, size, offset = end64, n64, true, size64, offset64
	}
	if size > math.MaxInt64 || offset > math.MaxInt64 {
		return directory{}, errDamaged
	}
	dir.begin = dir.end - int64(size)
	dir.base = dir.begin - int64(offset)
	// There may be a program before the archive, or its end says what is not so, or there
	// is another archive, which some read and others do not.
	other := dir.base != 0 && (has(in, int64(offset), directoryHeader) || has(in, 0, localHeader))
	switch {
	case dir.base >= 0 && dir.begin >= 0 && !other:
		return dir, nil
	case other || has(in, dir.begin, directoryHeader):
		return directory{}, errTwoWays
	}
	return directory{}, errDamaged
}

// has reports whether record is at a place.
func has(in input, at int64, record string) bool {
	var b [len(localHeader)]byte
	if at < 0 {
		return false
	}
	n, _ := in.at.ReadAt(b[:], at) // an error is noted by the source
	return string(b[:n]) == record
}

// findEnd finds the last record of a directory, behind which there may be a comment
// or something else. It returns -1 if there is none.
func (d *Searcher) findEnd(in input) (int64, []byte, error) {
	const most = directoryEndSize + math.MaxUint16
	if d.tail == nil {
		d.tail = make([]byte, most)
	}
	b := d.tail[:min(most, in.size)]
	from := in.size - int64(len(b))
	n, err := in.at.ReadAt(b, from)
	if err != nil && err != io.EOF {
		return 0, nil, err
	}
	b = b[:n]
	last := -1
	for at := 0; ; at = last + 1 {
		i := bytes.Index(b[at:], []byte(directoryEnd))
		if i < 0 || len(b)-at-i < directoryEndSize {
			break
		}
		last = at + i
	}
	if last < 0 {
		return -1, nil, nil
	}
	return from + int64(last), b[last:], nil
}

// findEnd64 finds the record of a directory for which the last one, at end, is too
// small. There is none if it returns no bytes.
func findEnd64(in input, end int64) (int64, []byte, error) {
	var b [directory64LocateSize]byte
	locate := end - directory64LocateSize
	if locate < 0 {
		return 0, nil, nil
	}
	if _, err := in.at.ReadAt(b[:], locate); err != nil {
		return 0, nil, err
	}
	if string(b[:4]) != directory64Locate {
		return 0, nil, nil
	}
	// Where it is said to be, or, with a program before the archive, before this.
	near := locate - directory64EndSize
	at := int64(min(le.Uint64(b[8:]), math.MaxInt64))
	if at > near || !has(in, at, directory64End) {
		at = near
	}
	if at < 0 || !has(in, at, directory64End) {
		return 0, nil, errTwoWays // some do without
	}
	record := make([]byte, directory64EndSize)
	_, err := in.at.ReadAt(record, at)
	return at, record, err
}

// An entry is what a directory says of a member.
type entry struct {
	flags, method uint16
	crc           uint32
	// compressed and size are how long it is, and header is where it begins.
	compressed, size, header uint64
}

// readEntry reads the next entry of a directory. [io.EOF] is its end.
func readEntry(r *bufio.Reader) (entry, error) {
	b, err := r.Peek(directoryHeaderSize)
	if len(b) == 0 && err == io.EOF {
		return entry{}, err
	}
	if err != nil {
		return entry{}, errDamaged
	}
	if string(b[:4]) != directoryHeader {
		return entry{}, errDamaged
	}
	e := entry{
		flags: le.Uint16(b[8:]), method: le.Uint16(b[10:]), crc: le.Uint32(b[16:]),
		compressed: uint64(le.Uint32(b[20:])), size: uint64(le.Uint32(b[24:])), header: uint64(le.Uint32(b[42:])),
	}
	name, extra, comment := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), int(le.Uint16(b[32:]))
	if _, err := r.Discard(directoryHeaderSize + name); err != nil {
		return entry{}, errDamaged
	}
	if b, err = r.Peek(extra); err != nil {
		return entry{}, errDamaged
	}
	if !e.widen(b) {
		return entry{}, errDamaged
	}
	if _, err := r.Discard(extra + comment); err != nil {
		return entry{}, errDamaged
	}
	return e, nil
}

// widen takes what does not fit into an entry from its extra fields.
func (e *entry) widen(extra []byte) bool {
	var wide []*uint64
	for _, v := range []*uint64{&e.size, &e.compressed, &e.header} {
		if *v == math.MaxUint32 {
			wide = append(wide, v)
		}
	}
	for len(wide) > 0 && len(extra) >= 4 {
		id, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			break
		}
		field := extra[:n]
		extra = extra[n:]
		for id == 1 && len(wide) > 0 {
			if len(field) < 8 {
				return false
			}
			*wide[0], field, wide = le.Uint64(field), field[8:], wide[1:]
		}
	}
	return e.compressed != math.MaxUint32 && e.header != math.MaxUint32
}

// member looks into a member of a zip archive.
func (d *Searcher) member(ctx context.Context, in input, base int64, e entry, depth int) error {
	const encrypted, strong, hidden = 1, 1 << 6, 1 << 13
	l := &d.levels[depth]
	if e.flags&(encrypted|strong|hidden) != 0 {
		return UncheckedError("encrypted: " + d.where(depth+1))
	}
	if e.method != 0 && e.method != 8 {
		return UncheckedError(fmt.Sprintf("compressed by method %d: %s", e.method, d.where(depth+1)))
	}
	if e.header > math.MaxInt64 || e.compressed > math.MaxInt64 {
		return errDamaged
	}
	begin := base + int64(e.header)
	if begin < 0 || begin > in.size-localHeaderSize {
		return errDamaged
	}
	b := l.head[:localHeaderSize]
	if _, err := in.at.ReadAt(b, begin); err != nil {
		return err
	}
	if string(b[:4]) != localHeader {
		return errDamaged
	}
	begin += localHeaderSize + int64(le.Uint16(b[26:])) + int64(le.Uint16(b[28:]))
	size := int64(e.compressed)
	if begin > in.size || size > in.size-begin {
		return errDamaged
	}
	if e.method == 0 {
		if e.size != e.compressed {
			return errDamaged
		}
		_, err := d.look(ctx, section(in.at, begin, size), depth+1)
		return err
	}
	compressed := reset(&l.compressed, io.NewSectionReader(in.at, begin, size), 32<<10)
	if l.inflate == nil {
		l.inflate = flate.NewReader(compressed)
	} else if err := l.inflate.(flate.Resetter).Reset(compressed, nil); err != nil { //nolint:errcheck // as its package says
		return err
	}
	var crc uint32
	n := uint64(0)
	_, err := d.stream(ctx, readFunc(func(p []byte) (int, error) {
		more, err := l.inflate.Read(p)
		n += uint64(more) //nolint:gosec // it is not negative
		crc = crc32.Update(crc, crc32.IEEETable, p[:more])
		if err == io.EOF && (n != e.size || crc != e.crc) {
			err = errDamaged
		}
		return more, err
	}), depth+1)
	return err
}
