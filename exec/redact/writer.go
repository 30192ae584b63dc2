package redact

import (
	"io"
	"slices"
	"sync"
	"time"
)

// A Writer is one stream. Its methods may be called from several goroutines, but
// for ReadFrom, beside which nothing else may write.
type Writer struct {
	// Found, if not nil, is called for each mask just before it is written, with
	// where in the stream the run began. It is set before the first Write, and does
	// not use the Writer.
	Found func(Find)
	// Covered, if not nil, gets the bytes of each run and writes what stands for them,
	// instead of the mask; all else goes to the destination as ever, in order. A long
	// run comes in several calls, the later ones with an empty mask. It is set before
	// the first Write, and does not use the Writer.
	Covered func(text []byte, mask string) error

	r   *Redactor
	dst io.Writer

	mu    sync.Mutex
	a     *automaton
	state state
	// need is how far the automaton must walk before the filter is tried again.
	need int
	// What came and is not decided, the longest end of the stream that may begin a
	// form, is buf[begin:]; behind it buf may be being filled. shown is how much of it
	// is on the terminal already.
	buf          []byte
	begin, shown int
	offset       int64 // of what is held, in the stream
	runs         []run // in the text of a Write, in order
	out          []byte
	err          error // the first error; sticky

	idle *time.Timer // shows what is held on a terminal; nil on anything else
}

// Find is a run that was masked.
type Find struct {
	Offset int64  // of its first byte, in the stream
	Name   string // of the first value in it
	Kind   string // in which form that is
}

// A run is covered bytes, text[start:end], of one or several forms. shown means
// that its mask has been written: it began before the text did.
type run struct {
	start, end int
	form       int32 // the first to begin
	shown      bool
}

const (
	// pieceSize is how much of a long Write is masked at a time, which bounds what
	// is remembered of it.
	pieceSize = 1 << 20
	// readSize is as much as is worth it: reads of less cost more calls, and of more
	// leave the processor's second cache (docs/explanation/masking.md).
	readSize = 256 << 10
	// What is held on a terminal is shown after idleTime, if it is less than shyLength.
	idleTime  = 30 * time.Millisecond
	shyLength = 4
)

// Write implements [io.Writer]. What it returns nil for is written, masked or
// held back. After an error nothing is written any more, the error stays, and
// the number of bytes is that of the pieces that went before it: what came of the
// last one cannot be told, as masks are not as long as what they stand for.
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

// ReadFrom implements [io.ReaderFrom]: it copies src, as it comes, until its end.
// Nothing else may write meanwhile. Reading into where what is held back lies
// saves a copy, and reads of a good size calls of the system.
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
		if err == io.EOF { //nolint:errorlint // as io.Copy: one that is wrapped is no end
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// room returns space behind what is held.
func (w *Writer) room() ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = slices.Grow(w.buf, readSize)
	return w.buf[len(w.buf) : len(w.buf)+readSize], w.err
}

// filled masks the first n bytes of the room.
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

// held returns how much is held back.
func (w *Writer) held() int { return len(w.buf) - w.begin }

// maskHeld masks what is held, all but the first bytes of which are new, and takes
// what is decided out of buf. What is left is moved to its beginning not each
// time, or a long one would cost that for each little write.
func (w *Writer) maskHeld(old int) error {
	decided, err := w.mask(w.buf[w.begin:], old)
	w.begin += decided
	if w.begin > w.held() {
		w.buf = w.buf[:copy(w.buf, w.buf[w.begin:])]
		w.begin = 0
	}
	return err
}

// mask masks text, of which the first held bytes were held back, writes what is
// decided, and returns how much that is.
func (w *Writer) mask(text []byte, held int) (decided int, err error) {
	from := held
	if a := w.r.automaton(); a != w.a {
		// Read what is held again: it may begin a new value, too.
		from, w.a, w.state = 0, a, state{}
		w.runs = slices.DeleteFunc(w.runs, func(r run) bool { return !r.shown })
	}
	w.search(text, from)
	decided = len(text) - int(w.state.depth)
	if err := w.emit(text, decided); err != nil {
		return decided, err
	}
	w.offset += int64(decided)
	if w.idle != nil {
		w.await(len(text) - decided)
	}
	return decided, nil
}

// A walk of the automaton ends when the filter may rule out what it would walk
// through. It must have been worth its while: on a text that is full of almost
// values the filter only costs time, so each walk that begins where the last one
// ended must be longer, up to maxNeed.
const (
	nearBy  = 24 // bytes from the end of a walk: the filter ruled out nothing
	maxNeed = 4096
)

// search moves the state over text[from:] and notes what is covered.
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

// walk moves the state over text[i:] until it is worthwhile to ask the filter
// again, and returns from where, or to the end of the text.
func (w *Writer) walk(t *trie, text []byte, i int, s state) (int, state) {
	next := t.next
	began, node, alive := i, int(s.node), i-int(s.depth)
	for i < len(text) {
		switch b, n := uint16(text[i]), next[node]; {
		case n&^(branch|ends) == b:
			// The text follows a form, as far as nothing ends in it.
			for i, node = i+1, node+1; i < len(text) && next[node]&^branch == uint16(text[i]); i++ {
				node++
			}
			if next[node]&ends != 0 {
				node, alive = w.arrive(t, node, alive, i)
			}
		case n&(branch|leaf|root) == 0: // it has one child, and that is not it
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
		// What is alive began at alive, and is found again from there. Not if that is
		// most of what was walked; if a run reaches into it, which would be found anew;
		// or so near the end that the filter could not see enough.
		worthIt := i-began >= w.need+2*(i-alive)
		if worthIt && len(text)-i > maxShortest && (len(w.runs) == 0 || w.runs[len(w.runs)-1].end <= alive) {
			return alive, state{}
		}
	}
	return i, state{int32(node), int32(i - alive)} //nolint:gosec // below maxNodes
}

// arrive notes what ends in a node, behind the byte before i, and returns where
// to go on, and since when that is alive.
func (w *Writer) arrive(t *trie, node, alive, i int) (int, int) {
	s := state{int32(node), int32(i - alive)} //nolint:gosec // below maxNodes
	t.link(s.node)                            // and with it what ends there
	form := t.outs[s.node].Load()
	w.cover(run{start: i - int(t.lengths[form]), end: i, form: form})
	// Nothing begins with a whole form that nothing extends: what is behind it is
	// decided.
	for t.next[s.node]&leaf != 0 {
		s = fail(t.link(s.node))
	}
	return int(s.node), i - int(s.depth)
}

// cover adds a form that ends where the text has been walked to.
func (w *Writer) cover(r run) {
	for n := len(w.runs); n > 0 && r.start <= w.runs[n-1].end; n = len(w.runs) {
		last := w.runs[n-1]
		w.runs = w.runs[:n-1]
		r.end = max(r.end, last.end) // a run may have been found before: see mask
		if last.shown || last.start < r.start {
			r.start, r.form, r.shown = last.start, last.form, last.shown
		}
	}
	w.runs = append(w.runs, r)
}

// emit writes text[:decided] with its runs masked, but for what has been shown,
// in one write, and keeps the runs that go on behind it.
func (w *Writer) emit(text []byte, decided int) error {
	at := min(w.shown, decided)
	w.shown -= at
	out, begin, kept := w.out[:0], at, 0
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
		// A run that reaches what is not decided may be extended, and was shown.
		if r.end >= decided {
			w.runs[kept] = run{0, r.end - decided, r.form, true}
			kept++
		}
	}
	w.runs = w.runs[:kept]
	if at == begin && len(out) == 0 || w.Covered != nil {
		return w.pass(text[at:decided]) // the usual case: as it came, no copy
	}
	w.out = append(out, text[at:decided]...)
	return w.pass(w.out)
}

// covered writes out, and lets Covered stand for text.
func (w *Writer) covered(out, text []byte, mask string) error {
	if err := w.pass(out); err != nil || len(text) == 0 {
		return err
	}
	w.err = w.Covered(text, mask)
	return w.err
}

// pass writes to the destination.
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

// await waits for the stream to be idle, if there is something to show then.
func (w *Writer) await(held int) {
	if held > w.shown && held < shyLength {
		w.idle.Reset(idleTime)
	} else {
		w.idle.Stop()
	}
}

// show shows what is held, a few bytes on a terminal.
func (w *Writer) show() {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := w.shown
	for _, r := range w.runs {
		if !r.shown {
			return // a whole value, of which another may be the beginning
		}
		from = max(from, r.end) // a mask stands for it
	}
	held := w.buf[w.begin:]
	if w.err != nil || len(held) >= shyLength || len(held) <= from {
		return // there was a Write meanwhile
	}
	if w.pass(held[from:]) == nil {
		w.shown = len(held)
		// A value that begins here gets a mask of its own, even if it touches a run:
		// without, what is shown of it would stand beside what comes behind it.
		w.runs = w.runs[:0]
	}
}

// Close writes what is held back: the stream has ended, so it is no value. It
// does not close the destination. A second Close returns [io.ErrClosedPipe], as
// does a Write.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle != nil {
		defer w.idle.Stop()
	}
	if w.err != nil {
		return w.err
	}
	if err := w.write(nil); err != nil { // values may have been added
		return err
	}
	err := w.emit(w.buf[w.begin:], w.held())
	w.begin, w.buf = 0, nil
	if err == nil {
		w.err = io.ErrClosedPipe
	}
	return err
}
