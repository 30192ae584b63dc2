package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// prefixed searches r, a page of texts of which each is stored without what it has in common with the
// one before (DELTA_BYTE_ARRAY): the lengths of these beginnings, those of the rests, and the rests.
//
// In a page of the first version up to two lists of levels are in front of the texts, each behind its
// length; how many there are follows from the schema. It is not read: what can be read in one of the
// three ways is searched.
func (d *Searcher) prefixed(ctx context.Context, r io.Reader, p page, depth int) error {
	if d.held+p.expanded > d.bounds.held {
		return UncheckedError(fmt.Sprintf("a page of a parquet file in it has more than %d MiB", d.bounds.held>>20))
	}
	d.held += p.expanded
	defer func() { d.held -= p.expanded }()
	b, err := io.ReadAll(io.LimitReader(d.expanded(ctx, r, io.Discard), p.expanded))
	if err != nil {
		return d.unreadable(err, depth)
	}

	readable := false
	for range 3 {
		is, err := d.texts(ctx, b, depth)
		if err != nil {
			return err
		}
		readable = readable || is
		const size = 4
		if p.second || len(b) < size || int64(le.Uint32(b)) > int64(len(b)-size) {
			break
		}
		b = b[size+int(le.Uint32(b)):]
	}
	if !readable {
		return errDamaged
	}
	return nil
}

// texts searches b, the texts of a page without the levels, and reports whether it can be read so.
func (d *Searcher) texts(ctx context.Context, b []byte, depth int) (bool, error) {
	most := (d.bounds.held - d.held) / 16 // two lists of eight bytes each
	shared, b, err := deltas(b, most)
	if err != nil {
		return false, notDamaged(err)
	}
	rests, b, err := deltas(b, most)
	if err != nil || len(rests) != len(shared) {
		return false, notDamaged(err)
	}
	w := d.redactor.Writer(io.Discard)
	w.Found = d.levels[depth+1].found
	var text []byte
	for i, n := range shared {
		if n < 0 || n > int64(len(text)) || rests[i] < 0 || rests[i] > int64(len(b)) {
			return false, nil
		}
		text = append(append(text[:n], b[:rests[i]]...), '\n')
		b = b[rests[i]:]
		// Many long texts may come out of a few bytes.
		if err := d.spend(int64(len(text))); err != nil {
			return false, err
		}
		if err := ctx.Err(); err != nil {
			return false, d.fail(err)
		}
		if _, err := w.Write(text); err != nil {
			return false, d.fail(err)
		}
		text = text[:len(text)-1]
	}
	return true, w.Close()
}

// notDamaged returns err, unless it is errDamaged.
func notDamaged(err error) error {
	if err == errDamaged { //nolint:errorlint // it is never wrapped
		return nil
	}
	return err
}

// deltas reads at most so many numbers in the encoding DELTA_BINARY_PACKED, and returns what follows
// them: a header, and blocks of differences. A block is divided into pieces, and all differences in
// a piece have the same number of bits. Source: Encodings.md of github.com/apache/parquet-format.
func deltas(b []byte, most int64) (numbers []int64, rest []byte, err error) {
	r := bytes.NewReader(b)
	var header [3]uint64 // numbers in a block, pieces in a block, numbers in all
	for i := range header {
		if header[i], err = binary.ReadUvarint(r); err != nil {
			return nil, nil, errDamaged
		}
	}
	const widest = 1 << 16
	block, pieces, left := header[0], header[1], header[2]
	number, err := binary.ReadVarint(r)
	if err != nil || pieces == 0 || block == 0 || block > widest || block%pieces != 0 || block/pieces%8 != 0 {
		return nil, nil, errDamaged
	}
	if left > uint64(max(most, 0)) {
		return nil, nil, UncheckedError("a page of a parquet file in it has too many texts")
	}
	if left > 0 {
		numbers = append(numbers, number)
		left--
	}
	b = b[len(b)-r.Len():]
	for left > 0 {
		least, n := binary.Varint(b)
		if n <= 0 || len(b)-n < int(pieces) { //nolint:gosec // at most widest
			return nil, nil, errDamaged
		}
		widths := b[n : n+int(pieces)] //nolint:gosec // at most widest
		b = b[n+len(widths):]
		for _, width := range widths {
			if left == 0 {
				break // the other pieces are not there
			}
			in := int(block / pieces) //nolint:gosec // at most widest
			size := in / 8 * int(width)
			if width > 64 || size > len(b) {
				return nil, nil, errDamaged
			}
			for i := 0; i < in && left > 0; i++ {
				number += least + unpack(b, i*int(width), int(width))
				numbers = append(numbers, number)
				left--
			}
			b = b[size:]
		}
	}
	return numbers, b, nil
}

// unpack returns the number of so many bits at a place, which is counted in bits.
func unpack(b []byte, at, width int) (n int64) {
	for i := 0; i < width; {
		take := min(8-(at+i)%8, width-i)
		part := int64(b[(at+i)/8]>>((at+i)%8)) & (1<<take - 1)
		n |= part << i
		i += take
	}
	return n
}
