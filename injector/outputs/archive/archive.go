// Package archive searches files whose bytes do not show what they hold for known values: archives
// and other compressed data, parquet and texts in UTF-16, also nested in one another. It only
// finds values and never changes a file, because a mask would break it.
//
// A file may have been made to do harm, so time and memory are bounded. A file that cannot be
// searched completely is reported with an [UncheckedError]; it never passes as clean.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"inject/exec/redact"
)

// maxDepth is how many archives may be nested in one another.
const maxDepth = 4

// bounds limit what is spent on one file. A file that exceeds them is unchecked, so that a
// decompression bomb can neither fill the memory nor run for ever.
type bounds struct {
	// expanded is how many bytes may come out of compressed data. A large file may expand to
	// expansion times its size instead.
	expanded, expansion int64
	// members is the number of members of all archives in a file.
	members int
	// held is how many bytes may be kept in memory: zip archives and parquet files inside of
	// compressed data, because their directory is at the end, and pages of parquet.
	held int64
	// window is how many bytes of what came out a compressed stream may refer back to.
	window uint32
	// directories is how many bytes the directories of the zip archives and parquet files that
	// are open at the same time may have. In memory they take up to five times as much.
	directories int64
}

var usualBounds = bounds{
	expanded: 1 << 30, expansion: 100, members: 1_000_000, held: 64 << 20, window: 64 << 20, directories: 16 << 20,
}

// maxPadding is how many bytes behind the end of a tar archive are searched for another one.
const maxPadding = 16 << 20

// An UncheckedError says why a file could not be searched completely: it may hold more values
// than were found.
type UncheckedError string

// Error implements error.
func (e UncheckedError) Error() string { return string(e) }

// errDamaged is returned for damage for which the package that reads has no error.
var errDamaged = errors.New("damaged")

// A Format is the kind of a file that is looked into; "" if a file is not of such a kind.
type Format string

const (
	formatGzip    Format = "gzip archive"
	formatTar     Format = "tar archive"
	formatZip     Format = "zip archive"
	formatBzip2   Format = "bzip2 archive"
	formatXz      Format = "xz archive"
	formatZstd    Format = "zstd archive"
	formatLz4     Format = "lz4 archive"
	formatZlib    Format = "zlib stream"
	formatUTF16   Format = "UTF-16 text"
	formatParquet Format = "parquet file"
	formatLzma    Format = "lzma archive"
)

// String implements [fmt.Stringer].
func (f Format) String() string {
	if f == formatXz || f == formatLzma {
		return "an " + string(f)
	}
	return "a " + string(f)
}

// headSize is how many bytes at the beginning of a file are needed to tell its format: the
// length of a tar header.
const headSize = 512

// begins are the formats that a file has if it begins so.
var begins = []struct {
	with   string
	format Format
}{
	{"\x1f\x8b\x08", formatGzip},
	{localHeader, formatZip},
	{directoryEnd, formatZip},
	{"\xfd7zXZ\x00", formatXz},
	{"\x28\xb5\x2f\xfd", formatZstd},
	{"\x04\x22\x4d\x18", formatLz4},
	{"\xff\xfe", formatUTF16},
	{"\xfe\xff", formatUTF16},
	{parquetMagic, formatParquet},
	{parquetEncrypted, formatParquet},
	{"7z\xbc\xaf\x27\x1c", "7z archive"},
	{"Rar!\x1a\x07", "rar archive"},
	{"LZIP\x01", "lzip archive"},
	{"\x89LZO\x00\r\n\x1a\n", "lzop archive"},
	{"\x1f\x9d\x90", "compress archive"},
	{"MSCF\x00\x00\x00\x00", "cab archive"},
	{"\x02\x21\x4c\x18", "legacy lz4 archive"},
}

func formatOf(head []byte) Format {
	for _, b := range begins {
		if len(head) >= len(b.with) && string(head[:len(b.with)]) == b.with {
			return b.format
		}
	}
	switch {
	case isBzip2(head):
		return formatBzip2
	case isZlib(head):
		return formatZlib
	case isSkippable(head):
		return formatZstd
	case isTar(head):
		return formatTar
	case isLzma(head):
		return formatLzma
	}
	return ""
}

// isTar reports whether head is a header of a tar archive. It compares the checksum, because
// the oldest tar format has no other mark.
func isTar(head []byte) bool {
	const from, to = 148, 156 // the checksum, which counts as spaces in the sum
	if len(head) < headSize || head[0] == 0 {
		return false
	}
	want := int64(0)
	for _, c := range bytes.Trim(head[from:to], " \x00") {
		if c < '0' || c > '7' {
			return false
		}
		want = want<<3 | int64(c-'0')
	}
	unsigned, signed := int64(' '*(to-from)), int64(' '*(to-from))
	for i, c := range head[:headSize] {
		if i < from || i >= to {
			unsigned += int64(c)
			signed += int64(int8(c)) //nolint:gosec // some old programs sum signed bytes
		}
	}
	return want == unsigned || want == signed
}

// A Searcher searches archives and the archives nested in them. It scans only what comes out
// of compressed data: its caller has already scanned the bytes of the file itself, and with
// them every member that is stored uncompressed. It is used by one goroutine.
type Searcher struct {
	redactor *redact.Redactor
	found    func(f redact.Find, where string)
	bounds   bounds
	levels   [maxDepth + 1]level

	left    int64 // how many bytes may still come out of compressed data
	members int
	held    int64

	directories int64 // bytes of the directories of the zip archives that are open

	tail []byte // buffer for the end of a file, where a zip archive's directory ends
	stub []byte // buffer for the beginning of a file, behind which compressed data may follow
	// fault is the first error that is not the archive's: a failed read, the end of the
	// context, or a bound that is exceeded. It is kept here because the packages that read
	// archives may replace an error by one of their own.
	fault error
}

// A level holds what the search of an archive at one depth needs. It is reused for the next
// archive at that depth, because there may be a million.
type level struct {
	format Format
	member int // number of the member that is being searched; 0 before the first

	head [headSize]byte
	in   *bufio.Reader // the data that is being searched
	gzip gzip.Reader
	zstd *zstd.Decoder // made when it is needed
	xz   *xz.Reader    // made when it is needed

	brotli *brotli.Reader // made when it is needed
	found  func(redact.Find)
}

// release drops references to data that was read, so that up to bounds.held bytes and the windows
// of decoders are not kept in memory between files.
func (l *level) release() {
	if l.in != nil {
		l.in.Reset(nil)
	}
	l.zstd, l.xz, l.brotli = nil, nil, nil
}

// New returns a Searcher for the values that r knows. It calls found for each value, with a
// description of where in the file it is, such as "member 2 of a zip archive".
func New(r *redact.Redactor, found func(f redact.Find, where string)) *Searcher {
	d := &Searcher{redactor: r, found: found, bounds: usualBounds}
	for depth := range d.levels {
		d.levels[depth].found = func(f redact.Find) { d.found(f, d.where(depth)) }
	}
	return d
}

// where describes the place at a depth for people, from the inside out.
func (d *Searcher) where(depth int) string {
	var s strings.Builder
	for depth--; depth >= 0; depth-- {
		if s.Len() > 0 {
			s.WriteString(" in ")
		}
		l := &d.levels[depth]
		if l.member > 0 {
			fmt.Fprintf(&s, "member %d of ", l.member)
		}
		s.WriteString(l.format.String())
	}
	return s.String()
}

// An input is data that may be an archive. Its bytes are scanned elsewhere.
type input struct {
	r    *bufio.Reader // nil if at is set
	at   io.ReaderAt   // nil if the data can only be read in order
	size int64         // set with at
}

func section(at io.ReaderAt, from, size int64) input {
	return input{at: io.NewSectionReader(at, from, size), size: size}
}

// Search searches the file at, of size bytes, and returns its format. n is how many of its
// bytes are data and not holes of a sparse file: only these count for how much the file may
// expand. An error is an [UncheckedError], ctx's, or that of a failed read.
func (d *Searcher) Search(ctx context.Context, at io.ReaderAt, size, n int64) (Format, error) {
	d.left = max(d.bounds.expanded, d.bounds.expansion*min(n, math.MaxInt64/d.bounds.expansion))
	d.members, d.held, d.directories, d.fault = 0, 0, 0, nil
	f, err := d.look(ctx, section(&source{ctx.Err, at, d}, 0, size), 0)
	if d.fault != nil {
		err = d.fault
	}
	for i := range d.levels {
		d.levels[i].release()
	}
	return f, err
}

// A source reads a file and keeps its first error as the Searcher's fault.
type source struct {
	done func() error
	at   io.ReaderAt
	d    *Searcher
}

// ReadAt implements [io.ReaderAt].
func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if err := s.done(); err != nil {
		return 0, s.d.fail(err)
	}
	n, err := s.at.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, s.d.fail(err)
	}
	return n, err
}

// fail keeps err, which is not the archive's, and returns the first such error.
func (d *Searcher) fail(err error) error {
	if d.fault == nil {
		d.fault = err
	}
	return d.fault
}

// look searches an archive at a depth, and returns its format, or "" if in is not an archive. It goes
// on with the archives behind the end of a stream of gzip or zlib, as cat puts them there: their
// readers stop at the end, and those of the other formats see one file.
func (d *Searcher) look(ctx context.Context, in input, depth int) (Format, error) {
	f, err := d.one(ctx, in, depth)
	for next := f; err == nil && (next == formatGzip || next == formatZlib); {
		if in.r == nil {
			in.r = d.levels[depth].in // the one that was used for in
		}
		if more, err := another(ctx, in.r); err != nil || !more {
			return f, err
		}
		if err = d.count(ctx); err == nil {
			next, err = d.one(ctx, input{r: in.r}, depth)
		}
	}
	return f, err
}

// another reports whether an archive follows in r, behind zeros.
func another(ctx context.Context, r *bufio.Reader) (bool, error) {
	for range maxPadding / headSize {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		head, _ := r.Peek(headSize) // the next read returns the same error
		zeros := len(head) - len(bytes.TrimLeft(head, "\x00"))
		if zeros == 0 {
			return formatOf(head) != "", nil
		}
		_, _ = r.Discard(zeros) // they are there
	}
	return false, nil
}

// one is look without what follows.
func (d *Searcher) one(ctx context.Context, in input, depth int) (Format, error) {
	l := &d.levels[depth]
	head, err := d.head(in, l)
	if err != nil {
		return "", err
	}
	f := formatOf(head)
	if f == "" && depth == 0 {
		if at, _, err := d.findEnd(in); err == nil && at >= 0 {
			f = formatZip // with a program in front that unpacks or runs it
		}
	}
	if f == "" {
		return d.behind(ctx, in, depth)
	}

	l.format, l.member = f, 0
	if depth == maxDepth {
		return f, UncheckedError(fmt.Sprintf("archives are nested more than %d deep", maxDepth))
	}
	is := false
	switch f {
	case formatTar:
		is, err = d.tar(ctx, in, depth)
	case formatZip:
		is, err = d.zip(ctx, in, depth)
	case formatParquet:
		is, err = d.parquet(ctx, in, depth)
	case formatGzip, formatBzip2, formatXz, formatZstd, formatLz4, formatZlib, formatUTF16:
		var n int64
		plain := isGzip(head) // before more is read
		n, err = d.compressed(ctx, f, l.reader(in), depth)
		switch f {
		case formatGzip:
			is = err == nil || n > 0 || plain
		case formatZlib:
			is = err == nil || n >= certain
		default:
			is = true
		}
	default:
		return f, UncheckedError(f.String() + ", which cannot be looked into")
	}

	var reason UncheckedError
	switch {
	case d.fault != nil:
		return f, d.fault
	case err == nil && is, errors.As(err, &reason):
		return f, err
	case !is: // it only begins like an archive: nothing can be extracted from it
		return d.behind(ctx, in, depth)
	}
	return f, UncheckedError("damaged: " + d.where(depth+1))
}

// head returns the first bytes of an input without consuming them.
func (d *Searcher) head(in input, l *level) ([]byte, error) {
	if in.at == nil {
		head, _ := in.r.Peek(headSize) // the next read returns the same error
		return head, nil
	}
	n, err := in.at.ReadAt(l.head[:min(headSize, in.size)], 0)
	if err == io.EOF {
		err = nil // the file has shrunk
	}
	return l.head[:n], err
}

// reader returns a reader of an input in order.
func (l *level) reader(in input) *bufio.Reader {
	if in.r != nil {
		return in.r
	}
	return l.buffer(io.NewSectionReader(in.at, 0, in.size))
}

// buffer returns r behind the level's buffer.
func (l *level) buffer(r io.Reader) *bufio.Reader {
	if l.in == nil {
		l.in = bufio.NewReaderSize(nil, 32<<10)
	}
	l.in.Reset(r)
	return l.in
}

// expanded returns r, which is what comes out of compressed data, so that it is counted and
// written to w, which searches it.
func (d *Searcher) expanded(ctx context.Context, r io.Reader, w io.Writer) readFunc {
	return func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, d.fail(err)
		}
		n, err := r.Read(p)
		if err := d.spend(int64(n)); err != nil {
			return 0, err
		}
		if _, err := w.Write(p[:n]); err != nil {
			return 0, d.fail(err)
		}
		return n, err
	}
}

// spend counts bytes that come out of compressed data.
func (d *Searcher) spend(n int64) error {
	if d.left -= n; d.left < 0 {
		return d.fail(UncheckedError(fmt.Sprintf("it expands to more than %d MiB and %d times its size",
			d.bounds.expanded>>20, d.bounds.expansion)))
	}
	return nil
}

// stream scans r, which is what comes out of compressed data, and searches it for archives.
// It returns how many bytes it has read.
func (d *Searcher) stream(ctx context.Context, r io.Reader, depth int) (n int64, err error) {
	l := &d.levels[depth]
	w := d.redactor.Writer(io.Discard)
	w.Found = l.found
	in := l.buffer(d.expanded(ctx, readFunc(func(p []byte) (int, error) {
		more, err := r.Read(p)
		n += int64(more)
		return more, err
	}), w))
	if _, err := d.look(ctx, input{r: in}, depth); err != nil {
		return n, err
	}
	for err == nil {
		_, _ = in.Discard(in.Buffered())
		_, err = in.Peek(1)
	}
	if err != io.EOF {
		return n, err
	}
	return n, w.Close()
}

// enter counts a member of the archive at a depth.
func (d *Searcher) enter(ctx context.Context, depth int) error {
	if err := d.count(ctx); err != nil {
		return err
	}
	d.levels[depth].member++
	return nil
}

// count counts a member, or what costs as much as one.
func (d *Searcher) count(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return d.fail(err)
	}
	if d.members++; d.members > d.bounds.members {
		return UncheckedError(fmt.Sprintf("there are more than %d members in it", d.bounds.members))
	}
	return nil
}

// tar searches a tar archive, and reports whether in is one.
func (d *Searcher) tar(ctx context.Context, in input, depth int) (is bool, err error) {
	l := &d.levels[depth]
	// With an io.Seeker, the tar reader skips members without reading them.
	var r io.Reader = in.r
	var places *io.SectionReader
	if in.at != nil {
		places = io.NewSectionReader(in.at, 0, in.size)
		r = places
	}

	// The header stores a long name in parts, so a name is scanned again as a whole.
	names := d.redactor.Writer(io.Discard)
	names.Found = func(f redact.Find) { d.found(f, d.where(depth+1)) }
	for t := tar.NewReader(r); ; is = true {
		h, err := t.Next()
		if err == io.EOF { //nolint:errorlint // as readers return it
			if err := d.behindTar(ctx, r, places); err != nil {
				return true, err
			}
			return is, names.Close()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return is, err
		}

		if err := d.enter(ctx, depth); err != nil {
			return true, err
		}
		if _, err := io.WriteString(names, h.Name+"\x00"+h.Linkname+"\x00"); err != nil {
			return true, err
		}
		n, err := fill(t, l.head[:])
		if err != nil && err != io.EOF { //nolint:errorlint // as readers return it
			return true, err
		}
		head := l.head[:n]
		if formatOf(head) == "" {
			continue
		}

		next := input{r: d.levels[depth+1].buffer(io.MultiReader(bytes.NewReader(head), t))}
		if places != nil && !sparse(h) {
			at, err := places.Seek(0, io.SeekCurrent)
			if err != nil {
				return true, err
			}
			next = section(in.at, at-int64(n), h.Size)
		}
		if _, err := d.look(ctx, next, depth+1); err != nil {
			return true, err
		}
	}
}

// behindTar returns an error if another archive follows the end of one: some programs read on
// there, as with tar --ignore-zeros.
func (d *Searcher) behindTar(ctx context.Context, r io.Reader, places *io.SectionReader) error {
	if places != nil { // the tar reader may have stopped within a block
		at, err := places.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if _, err := places.Seek((at+headSize-1)/headSize*headSize, io.SeekStart); err != nil {
			return err
		}
	}
	var block [headSize]byte
	for range maxPadding / headSize {
		if err := ctx.Err(); err != nil {
			return d.fail(err)
		}
		n, err := fill(r, block[:])
		if err != nil && err != io.EOF { //nolint:errorlint // as readers return it
			return err
		}
		switch {
		case isTar(block[:n]):
			return UncheckedError("there are several tar archives in it, one behind the other")
		case formatOf(block[:n]) != "":
			return UncheckedError("there is " + formatOf(block[:n]).String() + " behind a tar archive in it")
		case n < headSize, block != [headSize]byte{}:
			return nil
		}
	}
	return nil
}

// sparse reports whether a member is a sparse file, whose bytes in the archive are not those
// that the tar reader returns.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// fill reads until p is full or r ends. The error is [io.EOF] if r has ended.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
