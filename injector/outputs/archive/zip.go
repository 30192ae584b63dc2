package archive

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Signatures of the records of a zip archive (PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16).
const (
	localHeader       = "PK\x03\x04"
	directoryHeader   = "PK\x01\x02"
	directoryEnd      = "PK\x05\x06"
	directory64End    = "PK\x06\x06"
	directory64Locate = "PK\x06\x07"
)

// Lengths of the records in bytes, without names, extra fields and comments.
const (
	localHeaderSize       = 30
	directoryHeaderSize   = 46
	directoryEndSize      = 22
	directory64EndSize    = 56
	directory64LocateSize = 20
)

// zip searches a zip archive, and reports whether in is one.
//
// archive/zip keeps the whole directory in memory, and reserves memory for as many members as
// the end record claims. So the end record is read here first: it bounds the directory, and it
// must be the record that archive/zip will find.
func (d *Searcher) zip(ctx context.Context, in input, depth int) (bool, error) {
	if in.at == nil {
		var err error
		if in, err = d.hold(in.r, formatZip); err != nil {
			return true, err
		}
		defer func() { d.held -= in.size }()
	}
	dir, err := d.findDirectory(in)
	if err != nil {
		return plausible(in), err
	}

	size := dir.end - dir.begin
	d.directories += size
	defer func() { d.directories -= size }()
	if d.directories > d.bounds.directories {
		return true, UncheckedError(fmt.Sprintf("a list of the members of a zip archive in it has more than %d MiB",
			d.bounds.directories>>20))
	}

	archive := section(in.at, dir.base, in.size-dir.base)
	z, err := zip.NewReader(archive.at, archive.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return has(in, dir.begin, directoryHeader) || plausible(in), errDamaged
	}
	for _, f := range z.File {
		if err := d.enter(ctx, depth); err != nil {
			return true, err
		}
		if err := d.member(ctx, archive, f, depth); err != nil {
			return true, err
		}
	}
	// A comment may be there, or what cat puts there.
	if at := dir.behind; at < in.size {
		_, err := d.look(ctx, section(in.at, at, in.size-at), depth)
		return true, err
	}
	return true, nil
}

// member searches a member of a zip archive.
func (d *Searcher) member(ctx context.Context, archive input, f *zip.File, depth int) error {
	const encrypted, strong, hidden = 1, 1 << 6, 1 << 13
	if f.Flags&(encrypted|strong|hidden) != 0 {
		return UncheckedError("encrypted: " + d.where(depth+1))
	}
	switch f.Method {
	case zip.Store:
		begin, err := f.DataOffset()
		size := int64(f.CompressedSize64) //nolint:gosec // checked below
		if err != nil || size < 0 || begin > archive.size || size > archive.size-begin ||
			f.UncompressedSize64 != f.CompressedSize64 {
			return errDamaged
		}
		_, err = d.look(ctx, section(archive.at, begin, size), depth+1)
		return err
	case zip.Deflate:
		r, err := f.Open()
		if err != nil {
			return errDamaged
		}
		defer r.Close() //nolint:errcheck // read only
		_, err = d.stream(ctx, r, depth+1)
		return err
	default:
		return UncheckedError(fmt.Sprintf("compressed by method %d: %s", f.Method, d.where(depth+1)))
	}
}

// hold reads a file whose directory is at its end, and which can only be read in order, into
// memory. The caller returns what it takes of bounds.held.
func (d *Searcher) hold(r io.Reader, f Format) (input, error) {
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
			return input{}, UncheckedError(fmt.Sprintf("%s in it has %d MiB or more", f, d.bounds.held>>20))
		}
	}
}

// pages are bytes in memory, in pieces of pageSize. Their number is not known in advance, and
// a single slice that grows would need more than twice the memory.
type pages [][]byte

const pageSize = 256 << 10

// ReadAt implements [io.ReaderAt]. Zeros may follow the last byte.
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

// plausible reports whether in begins with a header of a zip archive that makes sense. Without
// a directory it is then an archive that was cut short, and not just bytes that begin like one.
func plausible(in input) bool {
	var b [localHeaderSize]byte
	if _, err := in.at.ReadAt(b[:], 0); err != nil {
		return false
	}
	version, method, name := le.Uint16(b[4:]), le.Uint16(b[8:]), le.Uint16(b[26:])
	return string(b[:4]) == localHeader && version&0xff < 100 && method < 100 && name > 0
}

var le = binary.LittleEndian

// A directory is the place of a zip archive's directory.
type directory struct {
	begin, end int64
	base       int64 // where the archive begins: a program may be in front of it
	behind     int64 // where the end record ends
}

// errTwoWays is returned for an archive in which different programs find different members.
const errTwoWays = UncheckedError("damaged: a zip archive that may be read in two ways")

// findDirectory finds the directory of a zip archive.
func (d *Searcher) findDirectory(in input) (directory, error) {
	at, end, err := d.findEnd(in)
	if err != nil {
		return directory{}, err
	}
	if at < 0 {
		return directory{}, errDamaged
	}

	dir := directory{end: at, behind: at + directoryEndSize}
	members, size, offset := uint64(le.Uint16(end[10:])), uint64(le.Uint32(end[12:])), uint64(le.Uint32(end[16:]))

	end64, said, err := findEnd64(in, at)
	if err != nil {
		return directory{}, err
	}
	if end64 != nil {
		members64, size64, offset64 := le.Uint64(end64[32:]), le.Uint64(end64[40:]), le.Uint64(end64[48:])
		// As in archive/zip, the zip64 record counts only if the end record says that a number
		// does not fit into it.
		tooSmall := members == math.MaxUint16 || offset == math.MaxUint32
		differ := func(narrow, most, wide uint64) bool { return narrow != wide && (!tooSmall || narrow != most) }
		if differ(members, math.MaxUint16, members64) ||
			differ(size, math.MaxUint32, size64) || differ(offset, math.MaxUint32, offset64) {
			return directory{}, errTwoWays
		}
		dir.end, members, size, offset = at-directory64LocateSize-directory64EndSize, members64, size64, offset64
	}
	if size > math.MaxInt64 || offset > math.MaxInt64 || members > size/directoryHeaderSize {
		return directory{}, errDamaged
	}

	dir.begin = dir.end - int64(size)
	dir.base = dir.begin - int64(offset)
	// If base is not 0, either a program is in front of the archive, or the end record is
	// wrong, or another archive is in front, which some programs read and others do not.
	other := dir.base != 0 && (has(in, int64(offset), directoryHeader) || has(in, 0, localHeader))
	switch {
	case end64 != nil && said != uint64(dir.end-dir.base): //nolint:gosec // a negative number differs, too
		return directory{}, errTwoWays
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
	n, _ := in.at.ReadAt(b[:], at) // the source keeps an error
	return string(b[:n]) == record
}

// findEnd finds the end record of a directory, which a comment or other bytes may follow. It
// returns the place of the record and the bytes from there on, or -1 if there is no record.
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

// findEnd64 finds the zip64 end record, which is in front of the end record at end and has
// numbers that do not fit into that. It returns the record, nil if there is none, and the place
// in the archive that the locator between both records gives for it.
func findEnd64(in input, end int64) (record []byte, said uint64, err error) {
	begin := end - directory64LocateSize - directory64EndSize
	if begin < 0 {
		return nil, 0, nil
	}
	b := make([]byte, directory64EndSize+directory64LocateSize)
	if _, err := in.at.ReadAt(b, begin); err != nil {
		return nil, 0, err
	}
	record, locate := b[:directory64EndSize], b[directory64EndSize:]
	if string(locate[:4]) != directory64Locate {
		return nil, 0, nil
	}
	firstDisk, disks := le.Uint32(locate[4:]), le.Uint32(locate[16:])
	if string(record[:4]) != directory64End || firstDisk != 0 || disks != 1 {
		return nil, 0, errTwoWays // some programs ignore such a locator
	}
	return record, le.Uint64(locate[8:]), nil
}
