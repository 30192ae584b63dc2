// Package content tells what a file is, and how a known value leaves it: a text, JSON and
// the messages of Flyte keep their form, and what else there is cannot be masked.
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

// A kind is what a file holds, as far as that says how a value is taken out of it.
type kind int

const (
	opaque    kind = iota // a form that a mask would break
	rawBytes              // bytes of no known form, which a mask may break
	text                  // UTF-8 without control characters
	jsonText              // a text that is JSON values, and is to stay that
	outputsPB             // what a task of Flyte hands on
	errorPB               // why a task of Flyte failed
)

// A Content is what was seen of a file.
type Content struct {
	// A text in which nothing was found is text, also if it is JSON, and a message is
	// opaque then: more is not looked at.
	kind kind
	// Found is how often each value is there, by name. What an archive holds may be
	// counted twice: as its own bytes, and as its member's.
	Found map[string]int
	// Why is, of what is opaque, what it is ("a gzip archive", "member 3 of a zip
	// archive"), and of what is unchecked, the reason ("it expands to more than 1 GiB").
	Why string
	// Unchecked is set if there may be more values than were found.
	Unchecked bool
}

// Maskable reports whether the file keeps its form when its values are masked.
func (c Content) Maskable() bool { return c.kind != opaque && c.kind != rawBytes }

// Binary reports whether the file is bytes of no known form. Rewrite masks values in them
// like in any bytes, which is for whoever asks for it to know.
func (c Content) Binary() bool { return c.kind == rawBytes }

// ErrStill is returned, wrapped, when a value cannot be taken out of a file.
var ErrStill = errors.New("a value cannot be taken out of it")

// An Inspector looks at what is in files, one after another, and masks it. It keeps
// what it needs for one for the next, because there may be a million. It is used
// by one goroutine.
type Inspector struct {
	// Found, if not nil, is called for every value that Inspect finds; Read as bytes are
	// read for the first time, with how many more those are.
	Found func(redact.Find)
	Read  func(n int)

	redactor *redact.Redactor
	buf      []byte // what is read of a file first, which of most is all
	all      bytes.Reader
	text     textCheck
	archives *archive.Searcher
	out      *bufio.Writer

	found map[string]int // in the file that is being looked at
	where string         // the first of these in an archive was
	count func(redact.Find)
}

// bufferSize is that of the redactor's own reads.
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

// Inspect reads all of a file. raw is its bytes in order, of which holes may be
// shortened; at its bytes by place, and size its length. A file that is damaged is
// no error.
func (in *Inspector) Inspect(ctx context.Context, name string, raw io.Reader, at io.ReaderAt, size int64) (Content, error) {
	in.found, in.where = nil, ""
	n, err := in.scan(ctx, raw)
	if err != nil {
		return Content{}, err
	}
	if n == size && n <= bufferSize { // all of it is in the buffer
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
		// A second look, at few files, costs less than one at every file.
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
	case f != "":
		c.kind, c.Why = opaque, f.String()
	case filepath.Ext(name) == ".pb" && len(c.Found) > 0:
		c.kind, c.Why, err = flyteKind(name, at, size)
	}
	return c, err
}

// scan looks for values in all of r, and whether it is a text. The first bytes of it
// are left in the buffer. It returns how many there were.
func (in *Inspector) scan(ctx context.Context, r io.Reader) (int64, error) {
	r = &cancelable{ctx, r, in.Read}
	// What is not a value says what the file is: with one in it that is no text, a text
	// is still one, and can be masked.
	in.text = textCheck{}
	w := in.redactor.Writer(&in.text)
	w.Found, w.Covered = in.count, in.text.covered
	n, err := io.ReadFull(r, in.buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // one that is wrapped is no end
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

// A cancelable reader ends when ctx does.
type cancelable struct {
	ctx context.Context //nolint:containedctx // it is one call's
	r   io.Reader
	// told, if not nil, is called with how many bytes each read returns.
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

// Rewrite writes to w what a file becomes with its values masked. raw is its bytes,
// in which c was seen. If it returns [ErrStill], wrapped, what is in w still holds a
// value, or would be broken, and is thrown away.
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

// A masker gets a file in its order: what is to stay by Write, and what is covered
// as [redact.Writer.Covered] does.
type masker interface {
	io.Writer
	covered(covered []byte, mask string) error
	finish() error
}

// A sink is where a masked file goes. On its way it is searched again, with a gap
// for each mask, which is no value even if it holds the bytes of one: that of the
// password "password" does.
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

// Write writes what is no mask.
func (s *sink) Write(p []byte) (int, error) {
	if err := s.look(p); err != nil {
		return 0, err
	}
	return s.w.Write(p)
}

// gap is a byte that no text has.
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

// close writes what is held back.
func (s *sink) close() error {
	if err := s.check.Close(); err != nil {
		return err
	}
	if s.still {
		return ErrStill
	}
	return s.w.Flush()
}

// A textMasker writes the mask for each run. A character of which a value has a
// part goes with it, so that UTF-8 stays that.
type textMasker struct {
	out   *sink
	begun []byte // of a character, which may be covered
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

// begun returns how many bytes at the end of p are a character that goes on.
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

// A rest is the end of a character that begins in a value: it goes with that. What
// only looks like one stays, or nobody would know how much of binary data goes.
type rest struct {
	last [utf8.UTFMax - 1]byte // of what is covered
	n    int
}

// covered notes what a value ends with; it may come in parts.
func (r *rest) covered(p []byte) {
	p = append(r.last[:r.n:r.n], p[max(0, len(p)-len(r.last)):]...)
	r.n = copy(r.last[:], p[max(0, len(p)-len(r.last)):])
}

// behind returns p, which is behind a value, without the rest of its last character.
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

// A textCheck tells a text from other bytes, however they come.
type textCheck struct {
	binary bool
	rest   rest
	n      int // of a character that goes on
	begun  [utf8.UTFMax]byte
}

// valid reports whether all that was written is a text.
func (t *textCheck) valid() bool { return !t.binary && t.n == 0 }

// Write implements [io.Writer].
func (t *textCheck) Write(p []byte) (int, error) {
	t.write(p)
	return len(p), nil
}

// covered passes over a value. A character of which it has a part goes with it.
func (t *textCheck) covered(p []byte, _ string) error {
	t.binary = t.binary || t.n > 0 && utf8.RuneStart(p[0])
	t.n = 0
	t.rest.covered(p)
	return nil
}

func (t *textCheck) write(p []byte) {
	p = t.rest.behind(p)
	// In pieces, so that not all of a text is slow for a word of another language.
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

// controls are the control characters that no text has.
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

// classify reports whether p is all ASCII, and whether it has one of the controls.
// It looks at 32 bytes at a time, and at one only where that may be a line end or
// the like.
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

// low sets the high bit of each byte that is less than a space, and of some that are
// not, but only above one that is.
func low(word uint64) uint64 { return (word - 0x2020202020202020) &^ word }
