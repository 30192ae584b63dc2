// Package archive looks for known values in gzip, tar and zip archives, and in archives
// inside of them. It changes nothing, and what it reads is bounded.
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

	"inject/exec/redact"
)

// maxDepth is how many archives may be in one another: what is in the last is none.
const maxDepth = 4

// Beyond its bounds a file is unchecked, so that one that was made to can neither fill
// the memory nor keep us for ever.
type bounds struct {
	// What comes out of compressed data is at most expanded, or expansion times what is
	// in the file.
	expanded, expansion int64
	// members is how many are in all archives of a file.
	members int
	// held is for the zip archives inside of compressed data: their directory is behind
	// all that it tells of.
	held int64
	// directories is for those of the zip archives that are open at a time. In memory each
	// takes up to five times as much.
	directories int64
}

var usualBounds = bounds{expanded: 1 << 30, expansion: 100, members: 1_000_000, held: 64 << 20, directories: 16 << 20}

// maxPadding is how far behind a tar archive another one is looked for.
const maxPadding = 16 << 20

// An UncheckedError is why a file could not be looked into.
type UncheckedError string

// Error implements error.
func (e UncheckedError) Error() string { return string(e) }

// errDamaged is what makes an archive damaged where no package has an error for it.
var errDamaged = errors.New("damaged")

// A Format is what is looked into; "" is none.
type Format string

const (
	formatGzip Format = "gzip"
	formatTar  Format = "tar"
	formatZip  Format = "zip"
)

// String implements [fmt.Stringer].
func (f Format) String() string { return "a " + string(f) + " archive" }

// headSize is as much as tells a format.
const headSize = 512

func formatOf(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b\x08")):
		return formatGzip
	case bytes.HasPrefix(head, []byte(localHeader)), bytes.HasPrefix(head, []byte(directoryEnd)):
		return formatZip
	case isTar(head):
		return formatTar
	}
	return ""
}

// isTar reports whether head is a header of a tar archive. The oldest have nothing
// that tells but the sum of their bytes.
func isTar(head []byte) bool {
	const from, to = 148, 156 // the sum, for which there are spaces in it
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
			signed += int64(int8(c)) //nolint:gosec // as some programs of old do
		}
	}
	return want == unsigned || want == signed
}

// A Searcher looks into archives, and into the archives in them. What is compressed
// is scanned as it comes out; what is not has been scanned with the archive.
type Searcher struct {
	redactor *redact.Redactor
	found    func(f redact.Find, where string)
	bounds   bounds
	levels   [maxDepth + 1]level

	left    int64 // of what may come out of compressed data
	members int
	held    int64

	directories int64 // of the zip archives that are open

	tail []byte // of a file, in which a directory ends
	// fault is the first error that is none of the archive's: of a read, the context's,
	// or that a bound is reached. Packages that read may hide it.
	fault error
}

// A level is what an archive at a depth needs. It is kept for the next one.
type level struct {
	format Format
	member int // 0 if none has begun

	head  [headSize]byte
	in    *bufio.Reader // what is looked into
	gzip  gzip.Reader
	found func(redact.Find)
}

// release lets go of what was read, which may be as much as may be held.
func (l *level) release() {
	if l.in != nil {
		l.in.Reset(nil)
	}
}

// New returns a Searcher that calls found with where, inside of the file, a
// value is.
func New(r *redact.Redactor, found func(f redact.Find, where string)) *Searcher {
	d := &Searcher{redactor: r, found: found, bounds: usualBounds}
	for depth := range d.levels {
		d.levels[depth].found = func(f redact.Find) { d.found(f, d.where(depth)) }
	}
	return d
}

// where tells people what is at a depth.
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

// An input is what may be an archive, all of which is scanned elsewhere.
type input struct {
	r    *bufio.Reader // nil if there is at
	at   io.ReaderAt   // nil if it can only be read in order
	size int64
}

func section(at io.ReaderAt, from, size int64) input {
	return input{at: io.NewSectionReader(at, from, size), size: size}
}

// Search looks into a file of which n bytes are no holes, and returns its format. An
// error is an [UncheckedError], or not the file's.
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

// A source notes the errors of a file.
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

// fail notes an error that is not an archive's.
func (d *Searcher) fail(err error) error {
	if d.fault == nil {
		d.fault = err
	}
	return d.fault
}

// look looks into an archive, and returns "" if it is none.
func (d *Searcher) look(ctx context.Context, in input, depth int) (Format, error) {
	l := &d.levels[depth]
	head, err := d.head(in, l)
	if err != nil {
		return "", err
	}
	f := formatOf(head)
	if f == "" && depth == 0 {
		if at, _, err := d.findEnd(in); err == nil && at >= 0 {
			f = formatZip // behind a program that unpacks or runs it
		}
	}
	if f == "" {
		return "", nil
	}
	l.format, l.member = f, 0
	if depth == maxDepth {
		return f, UncheckedError(fmt.Sprintf("archives are in one another more than %d deep", maxDepth))
	}
	is := false
	switch f {
	case formatGzip:
		is, err = d.gzip(ctx, in, depth)
	case formatTar:
		is, err = d.tar(ctx, in, depth)
	case formatZip:
		is, err = d.zip(ctx, in, depth)
	}
	var reason UncheckedError
	switch {
	case d.fault != nil:
		return f, d.fault
	case err == nil && is, errors.As(err, &reason):
		return f, err
	case !is:
		return "", nil // nothing can be taken out of it: it only begins like one
	}
	return f, UncheckedError("damaged: " + d.where(depth+1))
}

// head returns the first bytes of an input, and leaves them there.
func (d *Searcher) head(in input, l *level) ([]byte, error) {
	if in.at == nil {
		head, _ := in.r.Peek(headSize) // an error comes again with the next read
		return head, nil
	}
	n, err := in.at.ReadAt(l.head[:min(headSize, in.size)], 0)
	if err == io.EOF {
		err = nil // shorter than it was
	}
	return l.head[:n], err
}

// reader returns an input in order.
func (l *level) reader(in input) *bufio.Reader {
	if in.r != nil {
		return in.r
	}
	return l.buffer(io.NewSectionReader(in.at, 0, in.size))
}

// buffer returns r buffered, in a buffer that is made when it is needed first.
func (l *level) buffer(r io.Reader) *bufio.Reader {
	if l.in == nil {
		l.in = bufio.NewReaderSize(nil, 32<<10)
	}
	l.in.Reset(r)
	return l.in
}

// stream scans what comes out of compressed data and looks into it. It returns how
// much that was.
func (d *Searcher) stream(ctx context.Context, r io.Reader, depth int) (n int64, err error) {
	l := &d.levels[depth]
	w := d.redactor.Writer(io.Discard)
	w.Found = l.found
	in := l.buffer(readFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, d.fail(err)
		}
		more, err := r.Read(p)
		n += int64(more)
		if d.left -= int64(more); d.left < 0 {
			return 0, d.fail(UncheckedError(fmt.Sprintf("it expands to more than %d MiB and %d times its size", d.bounds.expanded>>20, d.bounds.expansion)))
		}
		if _, err := w.Write(p[:more]); err != nil {
			return 0, d.fail(err)
		}
		return more, err
	}))
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

// gzip looks into a gzip archive, and reports whether it is one.
func (d *Searcher) gzip(ctx context.Context, in input, depth int) (bool, error) {
	l := &d.levels[depth]
	r, z := l.reader(in), &l.gzip
	if err := z.Reset(r); err != nil {
		return false, err
	}
	z.Multistream(false)
	// What is behind the last member is nothing to gzip either; it has been scanned.
	ended := false
	members := readFunc(func(p []byte) (int, error) {
		for {
			if ended {
				return 0, io.EOF
			}
			n, err := z.Read(p)
			if err != io.EOF { //nolint:errorlint // as readers return it
				return n, err
			}
			if n > 0 {
				return n, nil
			}
			ended = z.Reset(r) != nil
			z.Multistream(false)
		}
	})
	n, err := d.stream(ctx, members, depth+1)
	return n > 0 || err == nil, err
}

// enter counts a member.
func (d *Searcher) enter(ctx context.Context, depth int) error {
	if err := ctx.Err(); err != nil {
		return d.fail(err)
	}
	if d.members++; d.members > d.bounds.members {
		return UncheckedError(fmt.Sprintf("there are more than %d members in it", d.bounds.members))
	}
	d.levels[depth].member++
	return nil
}

// tar looks into a tar archive, and reports whether it is one.
func (d *Searcher) tar(ctx context.Context, in input, depth int) (is bool, err error) {
	l := &d.levels[depth]
	// By place what is not looked at is passed over.
	var r io.Reader = in.r
	var places *io.SectionReader
	if in.at != nil {
		places = io.NewSectionReader(in.at, 0, in.size)
		r = places
	}
	// The parts of a long name are not together.
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

// behindTar makes sure that what is behind the end of a tar archive is no other one: some
// programs go on there.
func (d *Searcher) behindTar(ctx context.Context, r io.Reader, places *io.SectionReader) error {
	if places != nil { // the reader of tar may have stopped within a block
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
		case n < headSize, block != [headSize]byte{}:
			return nil
		}
	}
	return nil
}

// sparse reports whether a member is not in the archive as it is read.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// fill reads until p is full or r ends, and returns [io.EOF] only for that.
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
