// Package redact takes known values out of a byte stream, whatever the writes
// by which they come. It has never heard of secrets, processes or Flyte.
//
// # What is guaranteed
//
// No run of bytes that equals a pattern reaches the destination; everything
// else does, unchanged, in order, and as soon as it cannot be the beginning of
// a pattern. Patterns that overlap, nest or touch are one run, and a run is
// replaced by one mask, which names the pattern that began first and tells no
// length. What was begun and not finished when the stream ends is not a
// pattern, and is written.
//
// # What is not
//
// Only contiguous bytes are matched, as they are: a value with white space
// around it is matched without that, a multi-line value with \n and with \r\n.
// Encoded, compressed or reversed values, one with a colour code inside, and
// one that comes half on one stream and half on another, pass.
package redact

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// A Pattern is a value to take out, under a name that may be shown.
type Pattern struct {
	Name  string
	Value []byte
}

// A Redactor knows patterns and gives out writers that mask them. It is safe
// for concurrent use, and may grow while its writers run.
type Redactor struct {
	minLength int

	mu       sync.Mutex // held while the automaton is replaced
	patterns []Pattern
	unmasked []string
	current  atomic.Pointer[automaton]
}

// New returns a Redactor of patterns. Values of fewer than minLength bytes are
// not masked, because too much else is equal to them; neither are empty and
// blank ones. See [Redactor.Unmasked].
func New(minLength int, patterns ...Pattern) *Redactor {
	r := &Redactor{minLength: max(minLength, 1)}
	r.Add(patterns...)
	return r
}

// Add adds patterns. Writers mask them from their next Write on, also when they
// began before it, as far as it is still held back.
func (r *Redactor) Add(patterns ...Pattern) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range patterns {
		forms := r.forms(p.Value)
		if len(forms) == 0 {
			r.unmasked = append(r.unmasked, p.Name)
		}
		for _, form := range forms {
			r.patterns = append(r.patterns, Pattern{p.Name, form})
		}
	}
	r.current.Store(newAutomaton(r.patterns))
}

// forms returns the byte strings by which value is recognized; none if it is
// too short.
func (r *Redactor) forms(value []byte) [][]byte {
	form := bytes.Clone(value)
	trimmed := bytes.TrimSpace(form)
	switch {
	case len(trimmed) == 0:
		return nil
	case len(trimmed) >= r.minLength:
		// White space around a value is lost as soon as it is printed; without it the
		// value is found anyway, and a final newline need not be held back.
		form = trimmed
	case len(form) < r.minLength:
		return nil
	}
	forms := [][]byte{form}
	if unix := bytes.ReplaceAll(form, []byte("\r\n"), []byte("\n")); bytes.ContainsRune(unix, '\n') {
		forms = [][]byte{form, unix, bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))}
	}
	return forms
}

// Unmasked returns the names of the patterns that are not masked because they
// are too short or blank.
func (r *Redactor) Unmasked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.unmasked)
}

// Empty reports whether there is nothing to mask.
func (r *Redactor) Empty() bool { return r.current.Load().patterns == nil }

// Writer returns a new stream to dst. The caller closes it, which writes what
// is held back and does not close dst.
func (r *Redactor) Writer(dst io.Writer) *Writer { return &Writer{r: r, dst: dst} }

// A Writer is one stream. Its methods may be called from several goroutines.
type Writer struct {
	r   *Redactor
	dst io.Writer

	mu    sync.Mutex
	a     *automaton
	state int32
	// held is what came and is not decided, ever: the longest end of the stream
	// that may begin a pattern.
	held []byte
	runs []run // in held, in order; see run
	out  []byte
	err  error // the first error; sticky
}

// A run is covered bytes, text[start:end], of one or several patterns. shown
// means that its mask has been written: it began before the text did.
type run struct {
	start, end int
	pattern    int32 // the first to begin
	shown      bool
}

// Write implements [io.Writer]. What it returns nil for is written, masked or
// held back. After an error nothing is written any more, and the error stays.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	from := len(w.held)
	if a := w.r.current.Load(); a != w.a {
		// Read what is held again: it may begin a new pattern, too.
		from, w.a, w.state = 0, a, 0
		w.runs = slices.DeleteFunc(w.runs, func(r run) bool { return !r.shown })
	}
	text := p
	if len(w.held) > 0 {
		w.held = append(w.held, p...)
		text = w.held
	}
	for i := from; i < len(text); i++ {
		w.state = w.a.next(w.state, text[i])
		if n := &w.a.nodes[w.state]; n.match >= 0 {
			w.cover(run{start: i + 1 - len(w.a.patterns[n.match].Value), end: i + 1, pattern: n.match})
		}
		// Nothing begins with a whole pattern that nothing extends: what is behind
		// it is decided.
		for w.a.nodes[w.state].child == 0 && w.state != 0 {
			w.state = w.a.nodes[w.state].fail
		}
	}
	decided := len(text) - int(w.a.nodes[w.state].depth)
	if err := w.emit(text, decided); err != nil {
		return 0, err
	}
	rest := append(w.held[:0], text[decided:]...)
	w.held = rest
	return len(p), nil
}

// cover adds a pattern that ends where the text ends so far.
func (w *Writer) cover(r run) {
	for n := len(w.runs); n > 0 && r.start <= w.runs[n-1].end; n = len(w.runs) {
		last := w.runs[n-1]
		w.runs = w.runs[:n-1]
		if last.shown || last.start < r.start {
			r.start, r.pattern, r.shown = last.start, last.pattern, last.shown
		}
	}
	w.runs = append(w.runs, r)
}

// emit writes text[:decided] with its runs masked, in one write, and keeps the
// runs that go on behind it.
func (w *Writer) emit(text []byte, decided int) error {
	out, at, kept := w.out[:0], 0, 0
	for _, r := range w.runs {
		if r.start >= decided && !r.shown {
			r.start, r.end = r.start-decided, r.end-decided
			w.runs[kept] = r
			kept++
			continue
		}
		if r.start > at {
			out = append(out, text[at:r.start]...)
		}
		if !r.shown {
			out = append(out, w.a.masks[r.pattern]...)
		}
		at = min(r.end, decided)
		// A run that reaches what is not decided may be extended, and was shown.
		if r.end >= decided {
			w.runs[kept] = run{0, r.end - decided, r.pattern, true}
			kept++
		}
	}
	w.runs = w.runs[:kept]
	if at == 0 && len(out) == 0 {
		return w.write(text[:decided]) // the usual case: as it came, no copy
	}
	w.out = append(out, text[at:decided]...)
	return w.write(w.out)
}

func (w *Writer) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := w.dst.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	w.err = err
	return err
}

// Close writes what is held back: the stream has ended, so it is no pattern.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	err := w.emit(w.held, len(w.held))
	w.held = nil
	if err == nil {
		w.err = io.ErrClosedPipe
	}
	return err
}
