package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/xi2/xz"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// certain is how many bytes come out of bytes that are no compressed data only by a rare chance.
// So many must come out where little tells compressed data from others; otherwise each file that
// happens to begin with the two bytes of zlib would be an archive that is damaged.
const certain = 32 << 10

// isBzip2 reports whether head begins with the header of a bzip2 file and that of its first block
// or of its end.
func isBzip2(head []byte) bool {
	const size = 4
	if len(head) < size || !bytes.HasPrefix(head, []byte("BZh")) || head[3] < '1' || head[3] > '9' {
		return false
	}
	first := head[size:]
	return bytes.HasPrefix(first, []byte("1AY&SY")) || bytes.HasPrefix(first, []byte("\x17\x72\x45\x38\x50\x90"))
}

// isGzip reports whether head begins with a header of gzip as programs write it (RFC 1952, section
// 2.3): without flags that have no meaning, and with a level and a system that exist. Three bytes
// alone may be the beginning of anything.
func isGzip(head []byte) bool {
	const size, systems, unknown = 10, 13, 255
	return len(head) >= size && head[3]&0xe0 == 0 && (head[8] == 0 || head[8] == 2 || head[8] == 4) &&
		(head[9] <= systems || head[9] == unknown)
}

// isLzma reports whether head begins with a header of the format before xz: the usual properties, the
// size of a dictionary that xz makes, a size that is unknown or below 2^38, and the zero that the
// coded data begin with. Source: is_format_lzma of xz.
func isLzma(head []byte) bool {
	const size = 14
	if len(head) < size || head[0] != 0x5d || head[size-1] != 0 {
		return false
	}
	dictionary, content := le.Uint32(head[1:]), le.Uint64(head[5:])
	low := dictionary & -dictionary
	return dictionary >= 1<<12 && (dictionary == low || dictionary == 3*low) && (content < 1<<38 || content == 1<<64-1)
}

// isZlib reports whether head begins with the header of a zlib stream (RFC 1950, section 2.2).
func isZlib(head []byte) bool {
	return len(head) >= 2 && head[0]&0x0f == 8 && head[0]>>4 <= 7 && binary.BigEndian.Uint16(head)%31 == 0
}

// isSkippable reports whether head begins with a frame that readers of zstd skip, as a parallel
// zstd writes it (RFC 8878, section 3.1.2).
func isSkippable(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18"
}

// compressed searches what comes out of r, and returns how many bytes that is. Behind the last member
// of gzip and zlib r is not read.
func (d *Searcher) compressed(ctx context.Context, f Format, r *bufio.Reader, depth int) (int64, error) {
	var out io.Reader
	var err error
	switch f {
	case formatGzip:
		out, err = d.gzip(r, depth)
	case formatBzip2:
		if err := d.spend(bzip2Start); err != nil {
			return 0, err
		}
		out = bzip2.NewReader(r)
	case formatXz:
		out, err = d.xz(r, depth)
	case formatZstd:
		out, err = d.zstd(r, depth)
	case formatLz4:
		out = lz4.NewReader(r)
	case formatZlib:
		out, err = zlib.NewReader(r)
	case formatUTF16:
		out = transform.NewReader(r, unicode.UTF16(unicode.BigEndian, unicode.ExpectBOM).NewDecoder())
	}
	if err != nil {
		return 0, d.unreadable(err, depth)
	}
	n, err := d.stream(ctx, out, depth+1)
	return n, d.unreadable(err, depth)
}

// bzip2Start is how many bytes a decoder of bzip2 counts as when it begins: it makes and clears
// 3.6 MB, which takes as long as to expand some 100 KB. If it counted nothing, a small file with
// many beginnings would take minutes.
const bzip2Start = 128 << 10

// xz returns what comes out of r. The decoder of a level is used again, because each one makes up
// to bounds.window bytes for its first block.
func (d *Searcher) xz(r io.Reader, depth int) (io.Reader, error) {
	l := &d.levels[depth]
	if l.xz == nil {
		var err error
		if l.xz, err = xz.NewReader(nil, d.bounds.window); err != nil {
			return nil, err
		}
	}
	return l.xz, l.xz.Reset(r)
}

// zstd returns what comes out of r, by a decoder in bounded memory and without goroutines.
func (d *Searcher) zstd(r io.Reader, depth int) (io.Reader, error) {
	l := &d.levels[depth]
	if l.zstd == nil {
		var err error
		l.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(uint64(d.bounds.window)))
		if err != nil {
			return nil, err
		}
	}
	return l.zstd, l.zstd.Reset(r)
}

// brotli returns what comes out of r. The format has windows of 16 MiB at most.
func (d *Searcher) brotli(r io.Reader, depth int) io.Reader {
	l := &d.levels[depth]
	if l.brotli == nil {
		l.brotli = brotli.NewReader(nil)
	}
	_ = l.brotli.Reset(r) // it never fails
	return l.brotli
}

// unreadable returns err, and an [UncheckedError] instead of the errors of decoders that other ones
// may be without: because of too much memory, or of a filter or dictionary that they have.
func (d *Searcher) unreadable(err error, depth int) error {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case is(xz.ErrMemlimit), is(zstd.ErrWindowSizeExceeded):
		return UncheckedError(fmt.Sprintf("it takes more than %d MiB to expand: %s",
			d.bounds.window>>20, d.where(depth+1)))
	case is(xz.ErrOptions), is(xz.ErrUnsupportedCheck), is(zstd.ErrUnknownDictionary):
		return UncheckedError("compressed with an unknown filter or dictionary: " + d.where(depth+1))
	}
	return err
}

// gzip returns what comes out of all members of a gzip archive.
func (d *Searcher) gzip(r *bufio.Reader, depth int) (io.Reader, error) {
	z := &d.levels[depth].gzip
	if err := z.Reset(r); err != nil {
		return nil, err
	}
	z.Multistream(false)
	return readFunc(func(p []byte) (int, error) {
		for {
			n, err := z.Read(p)
			if err != io.EOF { //nolint:errorlint // as readers return it
				return n, err
			}
			if n > 0 {
				return n, nil
			}
			if head, _ := r.Peek(headSize); formatOf(head) != formatGzip {
				return 0, io.EOF
			}
			if err := z.Reset(r); err != nil {
				return 0, errDamaged
			}
			z.Multistream(false)
		}
	}), nil
}

// maxStub is how many bytes may be in front of compressed data.
const maxStub = 256 << 10

// behind searches compressed data behind other bytes of a file, such as a script that unpacks it.
// It counts as such if it expands to its end, or far enough that it cannot be anything else. In
// archives it does not look.
func (d *Searcher) behind(ctx context.Context, in input, depth int) (Format, error) {
	if depth > 0 || in.at == nil {
		return "", nil
	}
	if d.stub == nil {
		d.stub = make([]byte, maxStub)
	}
	n, err := in.at.ReadAt(d.stub[:min(maxStub, in.size)], 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	found := Format("")
	l := &d.levels[0]
	for _, f := range []Format{formatGzip, formatBzip2, formatXz, formatZstd} {
		begin := "BZh"
		for _, b := range begins {
			if b.format == f {
				begin = b.with
			}
		}
		for at := 1; at < n; at++ {
			i := bytes.Index(d.stub[at:n], []byte(begin))
			if i < 0 {
				break
			}
			if at += i; formatOf(d.stub[at:n]) != f {
				continue
			}
			l.format, l.member = f, 0
			// What goes in counts, too: there may be thousands of places that look like a begin.
			payload := io.NewSectionReader(in.at, int64(at), in.size-int64(at))
			out, err := d.compressed(ctx, f, l.buffer(d.expanded(ctx, payload, io.Discard)), 0)
			var reason UncheckedError
			switch {
			case d.fault != nil:
				return f, d.fault
			case err == nil:
				found = f
			case (out > 0 || f == formatXz) && errors.As(err, &reason): // xz has checked a sum
				return f, err
			case out >= certain:
				return f, UncheckedError("damaged: " + d.where(1))
			}
		}
	}
	return found, nil
}
