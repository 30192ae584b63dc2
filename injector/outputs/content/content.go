// Package content tells what form a file has, finds the known values in it, and masks them so
// that the file keeps its form: a text, JSON, or a message of Flyte's. Other forms, such as
// archives, cannot be masked. It reads and writes streams, and knows no paths.
package content

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"path/filepath"
	"unicode/utf8"

	"inject/exec/redact"
	"inject/injector/outputs/archive"
)

// A kind is the form of a file, which decides how values are masked in it.
type kind int

const (
	opaque    kind = iota // a form that a mask would break
	rawBytes              // bytes of no known form, which a mask may break
	text                  // UTF-8 without control characters
	jsonText              // a text of JSON values
	outputsPB             // Flyte's task.Outputs: the outputs of a task
	errorPB               // Flyte's core.ErrorDocument: why a task failed
)

// A Content is the result of inspecting a file.
type Content struct {
	// kind is exact only if a value was found. Without one, JSON counts as text and a message
	// as rawBytes, because telling more would cost time and decide nothing.
	kind kind
	// Found is how often each value was found, by name. A value in an archive may be counted
	// twice: in the bytes of the archive and in its member.
	Found map[string]int
	// Why describes a file that cannot be masked ("a gzip archive", "member 3 of a zip
	// archive"), or says why it is unchecked ("it expands to more than 1 GiB").
	Why string
	// Unchecked is set if there may be more values than were found: the file is an archive
	// that cannot be searched completely.
	Unchecked bool
}

// Maskable reports whether the file keeps its form when its values are masked.
func (c Content) Maskable() bool { return c.kind != opaque && c.kind != rawBytes }

// Binary reports whether the file is bytes of no known form. Rewrite masks them byte by byte,
// which may break the file: it is for a caller whose user has named the file.
func (c Content) Binary() bool { return c.kind == rawBytes }

// ErrStill is returned, wrapped, when a value cannot be masked without breaking the file.
var ErrStill = errors.New("a value in it cannot be masked")

// An Inspector inspects files and masks them, one after another. It reuses its buffers,
// because there may be a million files. It is used by one goroutine.
type Inspector struct {
	// Found, if not nil, is called for every value that Inspect finds. Read, if not nil, is
	// called with the number of bytes of every read of Inspect's first pass.
	Found func(redact.Find)
	Read  func(n int)

	redactor *redact.Redactor
	buf      []byte // the beginning of a file; all of it if it is small
	all      bytes.Reader
	text     textCheck
	archives *archive.Searcher
	out      *bufio.Writer

	found map[string]int // values in the current file
	where string         // where in an archive the first of them is
	count func(redact.Find)
}

// bufferSize is the size of the redactor's own reads.
const bufferSize = 256 << 10

// NewInspector returns an inspector of files for the values that r knows.
func NewInspector(r *redact.Redactor) *Inspector {
	in := &Inspector{redactor: r, buf: make([]byte, bufferSize)}
	in.count = func(f redact.Find) {
		if in.found == nil {
			in.found = map[string]int{}
		}
		in.found[f.Name]++
		if in.Found != nil {
			in.Found(f)
		}
	}
	in.archives = archive.New(r, func(f redact.Find, where string) {
		in.count(f)
		if in.where == "" {
			in.where = where
		}
	})
	return in
}

// Inspect reads all of a file called name. raw returns its bytes in order, except that the
// holes of a sparse file may be shortened; at returns its bytes by place; size is its length.
// Errors are those of reading and of ctx; a damaged file is not an error.
func (in *Inspector) Inspect(
	ctx context.Context, name string, raw io.Reader, at io.ReaderAt, size int64,
) (Content, error) {
	in.found, in.where = nil, ""
	n, err := in.scan(ctx, raw)
	if err != nil {
		return Content{}, err
	}
	if n == size && n <= bufferSize { // the buffer holds the whole file
		in.all.Reset(in.buf[:n])
		defer in.all.Reset(nil)
		at = &in.all
	}

	name = filepath.Base(name)
	if in.text.valid() && filepath.Ext(name) != ".pb" {
		c := Content{kind: text, Found: in.found}
		if len(c.Found) == 0 {
			return c, nil
		}
		// A second pass over the few files with values is cheaper than a check of all files.
		is, err := isJSON(&cancelable{ctx, io.NewSectionReader(at, 0, size), nil})
		if is {
			c.kind = jsonText
		}
		return c, err
	}

	f, err := in.archives.Search(ctx, at, size, n)
	c := Content{kind: rawBytes, Found: in.found, Why: "binary data"}
	var reason archive.UncheckedError
	switch {
	case errors.As(err, &reason):
		c.kind, c.Why, c.Unchecked = opaque, reason.Error(), true
		return c, nil
	case err != nil:
		return Content{}, err
	case in.where != "":
		c.kind, c.Why = opaque, in.where
	case filepath.Ext(name) == ".pb": // also one with an archive in its bytes
		return in.message(ctx, name, at, size)
	case f != "":
		c.kind, c.Why = opaque, f.String()
	}
	return c, nil
}

// scan searches all of r for values and finds out whether it is a text. It leaves the first
// bytes in the buffer, and returns the length of r.
func (in *Inspector) scan(ctx context.Context, r io.Reader) (int64, error) {
	r = &cancelable{ctx, r, in.Read}
	// Only bytes outside of values decide: a text with a binary value in it is still a text,
	// and can be masked.
	in.text = textCheck{}
	w := in.redactor.Writer(&in.text)
	w.Found, w.Covered = in.count, in.text.covered
	n, err := io.ReadFull(r, in.buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // a wrapped io.EOF is not the end
		return 0, err
	}
	if _, err := w.Write(in.buf[:n]); err != nil {
		return 0, err
	}
	var more int64
	if err == nil {
		more, err = w.ReadFrom(r)
		if err != nil {
			return 0, err
		}
	}
	return int64(n) + more, w.Close()
}

// A cancelable reader returns ctx's error when ctx has ended.
type cancelable struct {
	ctx context.Context //nolint:containedctx // it lives as long as one call
	r   io.Reader
	// told, if not nil, is called with the number of bytes of each read.
	told func(n int)
}

// Read implements [io.Reader].
func (c *cancelable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	if c.told != nil {
		c.told(n)
	}
	return n, err
}

// Rewrite writes a file to w with its values masked. raw returns its bytes, and c is the result
// of their inspection. After an error, w must be thrown away: it may hold a value. [ErrStill],
// wrapped, is returned if a value cannot be masked without breaking the file.
func (in *Inspector) Rewrite(ctx context.Context, c Content, raw io.Reader, w io.Writer) error {
	raw = &cancelable{ctx, raw, nil}
	var m masker
	out := in.sink(w)
	switch c.kind {
	case text:
		m = &textMasker{out: out}
	case jsonText:
		m = &jsonMasker{out: out}
	case outputsPB, errorPB:
		return in.rewriteMessage(ctx, c.kind, raw, w)
	case rawBytes:
		masked := in.redactor.Writer(w)
		if _, err := masked.ReadFrom(raw); err != nil {
			return err
		}
		return masked.Close()
	default:
		return fmt.Errorf("%w: %s", ErrStill, c.Why)
	}

	masked := in.redactor.Writer(m)
	masked.Covered = m.covered
	if _, err := masked.ReadFrom(raw); err != nil {
		return err
	}
	if err := masked.Close(); err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return err
	}
	return out.close()
}

// A masker gets a file in order: bytes that stay by Write, bytes of a value by covered, which
// is called as [redact.Writer.Covered] is.
type masker interface {
	io.Writer
	covered(covered []byte, mask string) error
	finish() error
}

// A sink writes a masked file and searches it again, because JSON's quotes and brackets stay
// even if they are part of a value. A mask itself is searched as a gap, because it may hold the
// bytes of a value: the mask of the password "password" does.
type sink struct {
	w     *bufio.Writer
	check *redact.Writer
	still bool
}

func (in *Inspector) sink(w io.Writer) *sink {
	if in.out == nil {
		in.out = bufio.NewWriterSize(nil, 64<<10)
	}
	in.out.Reset(w)
	s := &sink{w: in.out, check: in.redactor.Writer(io.Discard)}
	s.check.Found = func(redact.Find) { s.still = true }
	return s
}

// Write writes bytes that are not part of a mask.
func (s *sink) Write(p []byte) (int, error) {
	if err := s.look(p); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}

// gap is a byte that is in no text, so no value in a text crosses it.
var gap = []byte{0}

func (s *sink) mask(mask string) error {
	if err := s.look(gap); err != nil {
		return err
	}
	_, err := s.w.WriteString(mask)
	return err
}

func (s *sink) look(p []byte) error {
	if _, err := s.check.Write(p); err != nil {
		return err
	}
	if s.still {
		return ErrStill
	}
	return nil
}

// close writes what is buffered.
func (s *sink) close() error {
	if err := s.check.Close(); err != nil {
		return err
	}
	if s.still {
		return ErrStill
	}
	return s.w.Flush()
}

// A textMasker replaces each run of covered bytes by its mask. A character that is partly
// covered is dropped with the value, so that the text stays valid UTF-8.
type textMasker struct {
	out   *sink
	begun []byte // first bytes of a UTF-8 character whose rest may turn out to be covered
	rest  rest
}

func (t *textMasker) Write(p []byte) (int, error) {
	n := len(p)
	p = t.rest.behind(p)
	for len(p) > 0 && len(t.begun) > 0 {
		t.begun, p = append(t.begun, p[0]), p[1:]
		if utf8.FullRune(t.begun) {
			if err := t.finish(); err != nil {
				return 0, err
			}
		}
	}
	whole := len(p) - begun(p)
	t.begun = append(t.begun, p[whole:]...)
	if whole > 0 {
		if _, err := t.out.Write(p[:whole]); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (t *textMasker) covered(p []byte, mask string) error {
	t.begun = t.begun[:0]
	t.rest.covered(p)
	if mask == "" {
		return nil
	}
	return t.out.mask(mask)
}

func (t *textMasker) finish() error {
	_, err := t.out.Write(t.begun)
	t.begun = t.begun[:0]
	return err
}

// begun returns how many bytes at the end of p are an incomplete character.
func begun(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if end := p[len(p)-n:]; utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}

// A rest drops the bytes that complete a character which begins in a value. Bytes that merely
// look like a continuation are kept; otherwise a mask in binary data could eat any amount.
type rest struct {
	last [utf8.UTFMax - 1]byte // the last bytes that are covered
	n    int
}

// covered notes the end of a value, which may come in parts.
func (r *rest) covered(p []byte) {
	p = append(r.last[:r.n:r.n], p[max(0, len(p)-len(r.last)):]...)
	r.n = copy(r.last[:], p[max(0, len(p)-len(r.last)):])
}

// behind returns p, the bytes behind a value, without those that complete its last character.
func (r *rest) behind(p []byte) []byte {
	for len(p) > 0 && r.n > 0 {
		if begun(r.last[:r.n]) == 0 || utf8.RuneStart(p[0]) {
			r.n = 0
			break
		}
		r.covered(p[:1])
		p = p[1:]
	}
	return p
}

// A textCheck tells a text from other bytes, wherever the writes are cut.
type textCheck struct {
	binary bool
	rest   rest
	n      int // bytes of an incomplete character in begun
	begun  [utf8.UTFMax]byte
}

// valid reports whether all bytes written are a text.
func (t *textCheck) valid() bool { return !t.binary && t.n == 0 }

// Write implements [io.Writer].
func (t *textCheck) Write(p []byte) (int, error) {
	t.write(p)
	return len(p), nil
}

// covered passes over a value, and over characters that are partly covered.
func (t *textCheck) covered(p []byte, _ string) error {
	t.binary = t.binary || t.n > 0 && utf8.RuneStart(p[0])
	t.n = 0
	t.rest.covered(p)
	return nil
}

func (t *textCheck) write(p []byte) {
	p = t.rest.behind(p)
	// In pieces, so that one character outside of ASCII makes only its piece slow.
	const size = 1 << 10
	for ; len(p) > size; p = p[size:] {
		t.piece(p[:size])
	}
	t.piece(p)
}

func (t *textCheck) piece(p []byte) {
	if t.binary {
		return
	}
	for t.n > 0 && len(p) > 0 {
		t.begun[t.n], p = p[0], p[1:]
		if t.n++; utf8.FullRune(t.begun[:t.n]) {
			t.binary = !utf8.Valid(t.begun[:t.n])
			t.n = 0
		}
	}
	ascii, control := classify(p)
	if t.binary = t.binary || control; t.binary || ascii {
		return
	}
	whole := len(p) - begun(p)
	t.n = copy(t.begun[:], p[whole:])
	t.binary = !utf8.Valid(p[:whole])
}

// controls are the control characters that make a file binary.
var controls = func() (is [256]bool) {
	for c := range ' ' {
		switch c {
		case '\b', '\t', '\n', '\v', '\f', '\r', '\x1b':
		default:
			is[c] = true
		}
	}
	return is
}()

// classify reports whether p is all ASCII, and whether it has one of the controls. It checks
// 32 bytes at a time, and single bytes only where one of these is less than a space.
func classify(p []byte) (ascii, control bool) {
	const high = 0x8080808080808080
	le := binary.LittleEndian
	var wide uint64
	at := 0
	for ; at <= len(p)-32; at += 32 {
		p := p[at : at+32 : at+32]
		a, b, c, d := le.Uint64(p[:8]), le.Uint64(p[8:16]), le.Uint64(p[16:24]), le.Uint64(p[24:32])
		wide |= a | b | c | d
		if (low(a)|low(b)|low(c)|low(d))&high == 0 {
			continue
		}
		for i, word := range [...]uint64{a, b, c, d} {
			for low := low(word) & high; low != 0; low &= low - 1 {
				if controls[p[8*i+bits.TrailingZeros64(low)>>3]] {
					return false, true
				}
			}
		}
	}
	for _, c := range p[at:] {
		wide |= uint64(c)
		control = control || controls[c]
	}
	return wide&high == 0, control
}

// low sets the high bit of each byte that is less than a space. It may also set that of bytes
// above such a byte, never without one.
func low(word uint64) uint64 { return (word - 0x2020202020202020) &^ word }
