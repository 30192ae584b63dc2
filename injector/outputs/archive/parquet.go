package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/golang/snappy"
	"github.com/pierrec/lz4/v4"
)

// A parquet file (https://github.com/apache/parquet-format) begins and ends with one of these. In
// front of the second are the length of the footer and the footer, which has the places of all
// columns.
const (
	parquetMagic     = "PAR1"
	parquetEncrypted = "PARE"
	parquetTail      = 8
)

// Numbers of parquet.thrift.
const (
	fileRowGroups = 4 // fields of FileMetaData

	groupColumns = 1 // of RowGroup

	chunkFile, chunkMeta, chunkCrypto = 1, 3, 8 // of ColumnChunk

	metaType, metaCodec, metaSize, metaData, metaDictionary = 1, 4, 7, 9, 11 // of ColumnMetaData

	pageExpanded, pageSizes           = 2, 3    // of PageHeader
	pageData, pageDictionary, pageNew = 5, 7, 8 // the headers of its kinds

	dataEncoding                            = 2          // of DataPageHeader
	newEncoding, newLevels, newMore, newRaw = 4, 5, 6, 7 // of DataPageHeaderV2

	codecNone, codecSnappy, codecGzip, codecBrotli, codecZstd, codecLz4 = 0, 1, 2, 4, 6, 7

	encodingDeltaBytes, encodingSplit = 7, 9

	typeByteArray, typeFixedByteArray = 6, 7
)

// A column is the part of a column that is stored in one piece: a chunk.
type column struct {
	kind, codec            int64
	size, data, dictionary int64
	elsewhere, encrypted   bool
}

// parquet searches a parquet file, and reports whether in is one. Its texts are one behind the
// other in the pages of its columns, so they are found without decoding a page, but for two
// encodings: one stores what a text has in common with the text before it only once (see prefixed),
// and one the first bytes of all texts together, then the second ones (BYTE_STREAM_SPLIT).
func (d *Searcher) parquet(ctx context.Context, in input, depth int) (bool, error) {
	if in.at == nil {
		var err error
		if in, err = d.hold(in.r, formatParquet); err != nil {
			return true, err
		}
		defer func() { d.held -= in.size }()
	}
	var tail [parquetTail]byte
	if in.size < parquetTail+int64(len(parquetMagic)) {
		return false, errDamaged
	}
	if _, err := in.at.ReadAt(tail[:], in.size-parquetTail); err != nil {
		return false, errDamaged
	}
	size := int64(le.Uint32(tail[:]))
	switch {
	case string(tail[4:]) == parquetEncrypted:
		return true, UncheckedError("encrypted: " + d.where(depth+1))
	case string(tail[4:]) != parquetMagic || size > in.size-parquetTail-int64(len(parquetMagic)):
		// Without a footer it was cut short if a header of a page follows, whose first field is
		// a number; a text goes on with a letter.
		return has(in, 0, parquetMagic) && has1(in, int64(len(parquetMagic)), thriftI32|1<<4), errDamaged
	}
	d.directories += size
	defer func() { d.directories -= size }()
	if d.directories > d.bounds.directories {
		return true, UncheckedError(fmt.Sprintf("the footer of a parquet file in it has more than %d MiB",
			d.bounds.directories>>20))
	}

	footer := thrift{bufio.NewReader(io.NewSectionReader(in.at, in.size-parquetTail-size, size))}
	return true, footer.fields(func(field int64, kind byte) error {
		if field != fileRowGroups {
			return errSkip
		}
		return footer.list(kind, func(kind byte) error {
			return footer.within(kind, func(field int64, kind byte) error {
				if field != groupColumns {
					return errSkip
				}
				return footer.list(kind, func(kind byte) error {
					c, err := footer.column(kind)
					if err != nil {
						return err
					}
					if err := d.enter(ctx, depth); err != nil {
						return err
					}
					d.levels[depth].member = 0 // a column is no member for people
					return d.column(ctx, in, c, depth)
				})
			})
		})
	})
}

// has1 reports whether the byte c is at a place.
func has1(in input, at int64, c byte) bool {
	var b [1]byte
	n, _ := in.at.ReadAt(b[:], at) // the source keeps an error
	return n == 1 && b[0] == c
}

// column reads a ColumnChunk.
func (t *thrift) column(kind byte) (c column, err error) {
	return c, t.within(kind, func(field int64, kind byte) error {
		switch field {
		case chunkFile: // as in a _metadata file, which describes the columns of others
			c.elsewhere = true
		case chunkCrypto:
			c.encrypted = true
		case chunkMeta:
			return t.within(kind, func(field int64, kind byte) (err error) {
				to := map[int64]*int64{
					metaType: &c.kind, metaCodec: &c.codec, metaSize: &c.size, metaData: &c.data,
					metaDictionary: &c.dictionary,
				}[field]
				if to == nil {
					return errSkip
				}
				*to, err = t.number(kind)
				return err
			})
		}
		return errSkip
	})
}

// column searches a column of a parquet file.
func (d *Searcher) column(ctx context.Context, in input, c column, depth int) error {
	begin := c.data
	if c.dictionary > 0 {
		begin = min(begin, c.dictionary)
	}
	switch {
	case c.elsewhere:
		return nil
	case c.encrypted:
		return UncheckedError("encrypted: " + d.where(depth+1))
	case begin < 0 || c.size < 0 || begin > in.size || c.size > in.size-begin:
		return errDamaged
	}
	// What goes in counts, too, because a million columns may be at the same place.
	if err := d.spend(c.size); err != nil {
		return err
	}
	r := bufio.NewReader(io.NewSectionReader(in.at, begin, c.size))
	for {
		if _, err := r.Peek(1); err == io.EOF {
			return nil
		}
		// A small file may have millions of pages, and each costs as much as a member.
		if err := d.count(ctx); err != nil {
			return err
		}
		p, err := (&thrift{r}).page()
		if err != nil {
			return err
		}
		bytes := c.kind == typeByteArray || c.kind == typeFixedByteArray
		if bytes && p.encoding == encodingSplit {
			return UncheckedError(fmt.Sprintf("texts in parts (encoding %d): %s", p.encoding, d.where(depth+1)))
		}
		p.prefixed = bytes && p.encoding == encodingDeltaBytes
		page := io.LimitReader(r, p.size)
		if err := d.page(ctx, page, c.codec, p, depth); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, page); err != nil { // what follows the end of compressed data
			return errDamaged
		}
	}
}

// A page is the header of a page.
type page struct {
	size, expanded int64
	encoding       int64
	levels         int64 // bytes in front of the data that are not compressed
	raw            bool  // nothing in it is compressed
	second         bool  // its header is a DataPageHeaderV2
	prefixed       bool  // its texts are encoded as DELTA_BYTE_ARRAY
}

// page reads a PageHeader.
func (t *thrift) page() (p page, err error) {
	err = t.fields(func(field int64, kind byte) (err error) {
		switch field {
		case pageExpanded:
			p.expanded, err = t.number(kind)
		case pageSizes:
			p.size, err = t.number(kind)
		case pageData, pageDictionary:
			return t.within(kind, func(field int64, kind byte) error {
				if field != dataEncoding {
					return errSkip
				}
				p.encoding, err = t.number(kind)
				return err
			})
		case pageNew:
			p.second = true
			return t.within(kind, func(field int64, kind byte) error {
				var n int64
				switch field {
				case newEncoding:
					p.encoding, err = t.number(kind)
				case newLevels, newMore:
					n, err = t.number(kind)
					p.levels += n
				case newRaw:
					p.raw = kind == thriftFalse
				default:
					return errSkip
				}
				return err
			})
		default:
			return errSkip
		}
		return err
	})
	if err == nil && (p.size < 0 || p.size > math.MaxInt32 || p.expanded < 0 || p.expanded > math.MaxInt32 ||
		p.levels < 0 || p.levels > min(p.size, p.expanded)) {
		err = errDamaged
	}
	return p, err
}

// page searches r, the bytes of a page. What is not compressed has been scanned with the file.
func (d *Searcher) page(ctx context.Context, r io.Reader, codec int64, p page, depth int) error {
	if p.raw {
		codec = codecNone
	}
	if codec == codecNone && !p.prefixed || p.size == p.levels {
		return nil
	}
	if _, err := io.CopyN(io.Discard, r, p.levels); err != nil {
		return errDamaged
	}
	p.size, p.expanded = p.size-p.levels, p.expanded-p.levels

	var out io.Reader
	switch codec {
	case codecNone:
		out = r
	case codecGzip:
		z := &d.levels[depth].gzip
		if z.Reset(bufio.NewReader(r)) != nil {
			return errDamaged
		}
		out = z
	case codecZstd:
		var err error
		if out, err = d.zstd(r, depth); err != nil {
			return errDamaged
		}
	case codecBrotli:
		out = d.brotli(r, depth)
	case codecSnappy, codecLz4:
		// Neither makes more of a byte. What a page claims is reserved before it is expanded.
		if p.expanded > maxRatio*p.size {
			return errDamaged
		}
		if d.held+p.size+p.expanded > d.bounds.held {
			return UncheckedError(fmt.Sprintf("a page of a parquet file in it has more than %d MiB", d.bounds.held>>20))
		}
		d.held += p.size + p.expanded
		defer func() { d.held -= p.size + p.expanded }()
		b, err := block(r, codec, p)
		if err != nil {
			return errDamaged
		}
		out = bytes.NewReader(b)
	default:
		return UncheckedError(fmt.Sprintf("compressed by codec %d: %s", codec, d.where(depth+1)))
	}

	if p.prefixed {
		return d.prefixed(ctx, out, p, depth)
	}
	w := d.redactor.Writer(io.Discard)
	w.Found = d.levels[depth+1].found
	if _, err := io.Copy(io.Discard, d.expanded(ctx, out, w)); err != nil {
		return d.unreadable(err, depth)
	}
	return w.Close()
}

// maxRatio is how many bytes come out of one byte of lz4 at most.
const maxRatio = 255

// block expands a page that is one block of snappy or lz4.
func block(r io.Reader, codec int64, p page) ([]byte, error) {
	src := make([]byte, p.size)
	if _, err := io.ReadFull(r, src); err != nil {
		return nil, err
	}
	if codec == codecSnappy {
		if n, err := snappy.DecodedLen(src); err != nil || int64(n) != p.expanded {
			return nil, errDamaged
		}
		return snappy.Decode(nil, src)
	}
	dst := make([]byte, p.expanded)
	n, err := lz4.UncompressBlock(src, dst)
	return dst[:max(n, 0)], err
}

// A thrift reads the compact protocol of Thrift
// (https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). It holds
// nothing but its buffer, so that a field may claim any length.
type thrift struct{ r *bufio.Reader }

// Types of values.
const (
	thriftTrue, thriftFalse, thriftI8, thriftI16, thriftI32, thriftI64 = 1, 2, 3, 4, 5, 6
	thriftDouble, thriftBinary, thriftList, thriftSet, thriftMap       = 7, 8, 9, 10, 11
	thriftStruct, thriftUUID                                           = 12, 13
)

// maxThriftDepth is how deep values may be nested that are passed over.
const maxThriftDepth = 32

// errSkip is returned for a field that is to be passed over.
var errSkip = errors.New("skip")

// fields calls f for each field of a struct. f reads the value, or returns errSkip.
func (t *thrift) fields(f func(field int64, kind byte) error) error {
	return t.nested(f, 0)
}

// within is fields for a value of a kind that must be a struct.
func (t *thrift) within(kind byte, f func(field int64, kind byte) error) error {
	if kind != thriftStruct {
		return errDamaged
	}
	return t.fields(f)
}

func (t *thrift) nested(f func(field int64, kind byte) error, depth int) error {
	field := int64(0)
	for {
		c, err := t.r.ReadByte()
		if err != nil {
			return errDamaged
		}
		kind := c & 0x0f
		if kind == 0 {
			return nil
		}
		if c>>4 != 0 {
			field += int64(c >> 4)
		} else if field, err = binary.ReadVarint(t.r); err != nil {
			return errDamaged
		}
		err = f(field, kind)
		if err == errSkip { //nolint:errorlint // it is never wrapped
			err = t.skip(kind, depth)
		}
		if err != nil {
			return err
		}
	}
}

// list calls f for each item of a list.
func (t *thrift) list(kind byte, f func(kind byte) error) error {
	if kind != thriftList && kind != thriftSet {
		return errDamaged
	}
	c, err := t.r.ReadByte()
	if err != nil {
		return errDamaged
	}
	n := uint64(c >> 4)
	if n == 15 {
		if n, err = binary.ReadUvarint(t.r); err != nil {
			return errDamaged
		}
	}
	for range n {
		if err := f(c & 0x0f); err != nil {
			return err
		}
	}
	return nil
}

// number reads an integer.
func (t *thrift) number(kind byte) (int64, error) {
	if kind != thriftI16 && kind != thriftI32 && kind != thriftI64 {
		return 0, errDamaged
	}
	n, err := binary.ReadVarint(t.r)
	if err != nil {
		return 0, errDamaged
	}
	return n, nil
}

// skip passes over a value. A boolean that is a field has no bytes, one in a list has one.
func (t *thrift) skip(kind byte, depth int) error {
	if depth > maxThriftDepth {
		return errDamaged
	}
	size := uint64(0)
	var err error
	switch kind {
	case thriftTrue, thriftFalse:
	case thriftI8:
		size = 1
	case thriftDouble:
		size = 8
	case thriftUUID:
		size = 16
	case thriftI16, thriftI32, thriftI64:
		_, err = binary.ReadVarint(t.r)
	case thriftBinary:
		size, err = binary.ReadUvarint(t.r)
	case thriftStruct:
		return t.nested(func(int64, byte) error { return errSkip }, depth+1)
	case thriftList, thriftSet:
		return t.list(kind, func(kind byte) error {
			if kind == thriftTrue || kind == thriftFalse {
				kind = thriftI8
			}
			return t.skip(kind, depth+1)
		})
	default: // parquet has no maps
		return errDamaged
	}
	if err != nil || size > math.MaxInt32 {
		return errDamaged
	}
	if _, err := t.r.Discard(int(size)); err != nil {
		return errDamaged
	}
	return nil
}
