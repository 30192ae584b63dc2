package redact

import (
	"io"
	"slices"
	"sync"
	"time"
)

// A Writer is one stream. Its methods may be called from several goroutines at once, except
// ReadFrom: while it runs, nothing else may write.
type Writer struct {
	// Found, if not nil, is called for each mask just before it is written. It must be set
	// before the first Write, and must not use the Writer.
	Found func(Find)
	// Covered, if not nil, is called with the bytes of each run, and writes what is to stand
	// for them in place of the mask. Everything else goes to the destination as usual, in
	// order. For a long run there are several calls, the later ones with an empty mask. An
	// error ends the stream, as one of the destination does. Covered must be set before the
	// first Write, and must not use the Writer.
	Covered func(text []byte, mask string) error

	r   *Redactor
	dst io.Writer

	mu     sync.Mutex
	a      *automaton
	state  state
	folds  []fold // what may be wrapped forms; see wrap.go
	atStub bool   // the text has the first bytes of a form of which the automaton has no more
	// need is how many bytes the automaton must walk before the filter is tried again.
	need int
	// buf[begin:] is what is held back: the longest suffix of the stream that may begin a
	// form. Behind it, ReadFrom reads into the free space of buf. The first shown of the bytes
	// that are held back have been written already, masked or as they are, at a silence.
	buf          []byte
	begin, shown int
	offset       int64  // in the stream, of the first byte that is held back
	runs         []run  // of the current text, in order; see mask
	masked       []span // the bytes of shown that were written as masks, in order
	out          []byte
	err          error // the first error; sticky

	timer *time.Timer // runs silence; nil if the stream is not a live one
	armed bool        // the timer runs
	long  bool        // the short silence is over: the timer runs for the long one
}

// A Find is a run that was masked.
type Find struct {
	Offset int64  // of its first byte, in the stream
	Name   string // of the value that begins first in it
	Kind   string // of the form of that value: one of the kinds of package forms
}

// A run is text[start:end], which one or several forms cover. shown means that its mask has
// been written already, because the run began before the text.
type run struct {
	start, end int
	form       int32 // the one that begins first, the longest of those
	until      int   // the end of it, or of its piece
	shown      bool
}

const (
	// pieceSize is how many bytes of a long Write are masked at a time, which bounds the
	// memory for its runs.
	pieceSize = 1 << 20
	// readSize is the size of a read in ReadFrom. Smaller reads need more system calls,
	// larger ones leave the second cache of the processor.
	readSize = 256 << 10
)

// Write implements [io.Writer]. If it returns no error, p has been written, masked or held
// back. After an error nothing more is written, and every later call returns the same error.
// The number of bytes then counts the whole pieces of 1 MiB before the error: how far the
// last piece got is unknown, because masks differ in length from what they stand for.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := 0; ; n += pieceSize {
		piece := p[n:min(n+pieceSize, len(p))]
		if w.err != nil {
			return n, w.err
		}
		if err := w.write(piece); err != nil {
			return n, err
		}
		if n+len(piece) == len(p) {
			return len(p), nil
		}
	}
}

// ReadFrom implements [io.ReaderFrom]: it copies src until its end, and writes what each read
// brings at once. Nothing else may write meanwhile. It is faster than Write: it reads 256 KiB
// at a time, directly behind what is held back, which saves a copy.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	for total := int64(0); ; {
		room, err := w.room()
		if err != nil {
			return total, err
		}
		n, err := src.Read(room)
		if err2 := w.filled(n); err2 != nil {
			return total, err2
		}
		total += int64(n)
		if err == io.EOF { //nolint:errorlint // as io.Copy: a wrapped EOF does not end src
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// room returns readSize bytes of space behind what is held back.
func (w *Writer) room() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = slices.Grow(w.buf, readSize)
	return w.buf[len(w.buf) : len(w.buf)+readSize], w.err
}

// filled masks the first n bytes of the space that room returned.
func (w *Writer) filled(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n == 0 || w.err != nil {
		return w.err
	}
	from := w.held()
	w.buf = w.buf[:len(w.buf)+n]
	return w.maskHeld(from)
}

// write masks p behind what is held back.
func (w *Writer) write(p []byte) error {
	from := w.held()
	if from == 0 {
		decided, err := w.mask(p, 0)
		w.buf = append(w.buf[:0], p[decided:]...)
		return err
	}
	w.buf = append(w.buf, p...)
	return w.maskHeld(from)
}

// held returns how many bytes are held back.
func (w *Writer) held() int { return len(w.buf) - w.begin }

// maskHeld masks what is in buf, whose first old bytes were held back before, and drops what
// is decided. The rest is moved to the beginning of buf only when it is the smaller part:
// if it were moved each time, many small writes inside a long value would take quadratic time.
func (w *Writer) maskHeld(old int) error {
	decided, err := w.mask(w.buf[w.begin:], old)
	w.begin += decided
	if w.begin > w.held() {
		w.buf = w.buf[:copy(w.buf, w.buf[w.begin:])]
		w.begin = 0
	}
	return err
}

// mask masks text, whose first held bytes were held back before. It writes the bytes that are
// decided, which means that they cannot begin a form, and returns their number.
func (w *Writer) mask(text []byte, held int) (decided int, err error) {
	if a := w.r.automaton(); a != w.a {
		w.restart(a) // values were added: what is held back may begin one
		held = 0
	}
	w.search(text, held)
	if w.follow(text); w.atStub {
		w.restart(w.r.whole())
		w.search(text, 0)
		w.follow(text)
	}
	decided = len(text) - int(w.state.depth)
	if len(w.folds) > 0 {
		for _, f := range w.folds {
			decided = min(decided, f.begin)
		}
		w.rebase(decided)
	}
	if err := w.emit(text, decided); err != nil {
		return decided, err
	}
	w.offset += int64(decided)
	w.masked = forget(w.masked, decided)
	if w.timer != nil {
		w.await(len(text) - decided)
	}
	return decided, nil
}

// restart begins to search again in what is held back, by a. If a has the forms of the automaton
// before it, what has been found stays: it may be of a wrapped form whose beginning is held back no
// more.
func (w *Writer) restart(a *automaton) {
	if w.a == nil || !sameForms(w.a.forms, a.forms) {
		w.runs = slices.DeleteFunc(w.runs, func(r run) bool { return !r.shown })
	}
	w.a, w.state, w.folds, w.atStub = a, state{}, w.folds[:0], false
}

// sameForms reports whether a and b are the forms of the same values, so that runs of one hold for
// the other.
func sameForms(a, b []form) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// The automaton walks until the filter may rule out what follows. On a text that is full of
// almost values the filter rules out nothing and only costs time. So each walk that begins
// near the end of the last one must be longer, up to maxNeed. Without this, such texts are
// searched at 0.73 of the speed; other texts do not change.
const (
	nearBy  = 24 // bytes: if the filter skips fewer, it ruled out nothing
	maxNeed = 4096
)

// search moves the state over text[from:] and records the runs in w.runs.
func (w *Writer) search(text []byte, from int) {
	t, i, s := w.a.trie, from, w.state
	for i < len(text) {
		if s.node == 0 {
			next := w.a.filter.next(text, i)
			if next-i < nearBy {
				w.need = min(2*w.need+8, maxNeed)
			} else {
				w.need = 0
			}
			i = next
		}
		i, s = w.walk(t, text, i, s)
	}
	w.state = s
}

// walk moves the state over text[i:] until the filter is worth a try, or to the end of the
// text. It returns where to go on, and in which state.
func (w *Writer) walk(t *trie, text []byte, i int, s state) (int, state) {
	next := t.next
	began, node, alive := i, int(s.node), i-int(s.depth)
	met := -1 // where folds have begun
	for i < len(text) {
		b, n := uint16(text[i]), next[node]
		if n&(wraps|gaps|branch|leaf) != 0 && gapByte[b&0xff] && i-alive >= minPiece && i != met {
			met = i
			w.meet(text, i, state{int32(node), int32(i - alive)}) //nolint:gosec // below maxNodes
		}
		switch {
		case n&root != 0 && w.a.stride > 0 && len(text)-i > startLen && !w.a.mayStart(text[i:]):
			i++
			alive = i
		case n&^(branch|ends|wraps|gaps) == b:
			// The text follows one form, up to a node where a form ends or a gap may begin.
			for i, node = i+1, node+1; i < len(text) && next[node]&^(branch|wraps) == uint16(text[i]); i++ {
				node++
			}
			if next[node]&ends != 0 {
				node, alive = w.arrive(t, node, alive, i)
			}
		case n&(branch|leaf|root) == 0: // its only child has another label
			s := fail(t.link(int32(node))) //nolint:gosec // below maxNodes
			node, alive = int(s.node), i-int(s.depth)
		default:
			s := t.step(state{int32(node), int32(i - alive)}, byte(b)) //nolint:gosec // below maxNodes, and a byte
			i++
			node, alive = int(s.node), i-int(s.depth)
			if next[node]&ends != 0 {
				node, alive = w.arrive(t, node, alive, i)
			}
		}
		// Leave, and let the filter go on from alive, where the current prefix of a form
		// began. But not if the walk was short, or that prefix is most of it; if a run
		// reaches into the prefix, since it would be found again; or so near to the end
		// of the text that the filter could not see enough.
		worthIt := i-began >= w.need+2*(i-alive)
		if worthIt && len(text)-i > maxShortest && (len(w.runs) == 0 || w.runs[len(w.runs)-1].end <= alive) {
			return alive, state{}
		}
	}
	return i, state{int32(node), int32(i - alive)} //nolint:gosec // below maxNodes
}

// arrive records the form that ends at a node, with the byte before i. It returns the node to
// go on from, and where in the text the prefix of that node begins.
func (w *Writer) arrive(t *trie, node, alive, i int) (int, int) {
	s := state{int32(node), int32(i - alive)} //nolint:gosec // below maxNodes
	if t.next[s.node]&stub != 0 {
		w.atStub = true
	} else {
		t.link(s.node) // makes outs of the node, too
		form := t.outs[s.node].Load()
		w.cover(run{start: i - int(t.lengths[form]), end: i, form: form, until: i})
	}
	// A form that is not the beginning of a longer one is over: go on with its suffixes, so
	// that its bytes are not held back.
	for t.next[s.node]&leaf != 0 {
		s = fail(t.link(s.node))
	}
	return int(s.node), i - int(s.depth)
}

// cover adds the run of a form, or of a piece of it. It merges runs that touch. What has been shown at
// a silence is not masked any more.
func (w *Writer) cover(r run) {
	if r.end <= w.shown {
		return
	}
	behind := len(w.runs)
	for behind > 0 && w.runs[behind-1].start > r.end {
		behind--
	}
	n := behind
	for ; n > 0 && r.start <= w.runs[n-1].end; n-- {
		last := w.runs[n-1]
		r.end = max(r.end, last.end) // the run may be known already: see mask
		if last.shown || last.start < r.start ||
			last.start == r.start && (last.until > r.until || last.until == r.until && last.form < r.form) {
			r.start, r.form, r.until, r.shown = last.start, last.form, last.until, last.shown
		}
	}
	if behind == len(w.runs) {
		w.runs = append(w.runs[:n], r)
	} else {
		w.runs = slices.Replace(w.runs, n, behind, r)
	}
}

// emit writes text[:decided] in one write, with its runs masked and without what a silence
// has written already. It keeps the runs that go on behind decided.
func (w *Writer) emit(text []byte, decided int) error {
	at := min(w.shown, decided)
	w.shown -= at
	out, begin, kept := w.out[:0], at, 0
	for _, r := range w.runs {
		if r.start >= decided || at == decided && !r.shown {
			r.start, r.end, r.until = r.start-decided, r.end-decided, r.until-decided
			w.runs[kept] = r
			kept++
			continue
		}
		if r.start > at {
			out = append(out, text[at:r.start]...)
		}

		mask := ""
		if !r.shown {
			form := &w.a.forms[r.form]
			mask = w.a.masks[form.owner]
			if w.Found != nil {
				w.Found(Find{w.offset + int64(r.start), w.a.names[form.owner], form.kind})
			}
		}
		end := max(at, min(r.end, decided))
		if w.Covered == nil {
			out = append(out, mask...)
		} else if err := w.covered(out, text[max(at, r.start):end], mask); err != nil {
			return err
		} else {
			out = out[:0]
		}
		at = end
		// What is not decided may extend the run, whose mask has been written now.
		if r.end >= decided {
			w.runs[kept] = run{end: r.end - decided, form: r.form, shown: true}
			kept++
		}
	}
	w.runs = w.runs[:kept]

	if at == begin && len(out) == 0 || w.Covered != nil {
		return w.pass(text[at:decided]) // the usual case: text without a run is not copied
	}
	w.out = append(out, text[at:decided]...)
	return w.pass(w.out)
}

// covered writes out, and calls Covered for text.
func (w *Writer) covered(out, text []byte, mask string) error {
	if err := w.pass(out); err != nil || len(text) == 0 {
		return err
	}
	w.err = w.Covered(text, mask)
	return w.err
}

// pass writes b to the destination, and keeps the error.
func (w *Writer) pass(b []byte) error {
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

// Close writes what is held back, because the stream has ended and no value can follow. It
// does not close the destination. Later calls of Close and Write return [io.ErrClosedPipe].
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		defer w.timer.Stop()
	}
	if w.err != nil {
		return w.err
	}
	if err := w.write(nil); err != nil { // values may have been added since
		return err
	}
	err := w.emit(w.buf[w.begin:], w.held())
	w.begin, w.buf = 0, nil
	if err == nil {
		w.err = io.ErrClosedPipe
	}
	return err
}
