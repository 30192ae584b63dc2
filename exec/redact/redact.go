// Package redact takes known values out of a byte stream, whatever the writes
// by which they come. It has never heard of secrets, processes or Flyte.
//
// # What is guaranteed
//
// No run of bytes that equals a value, or one of the forms in which programs
// write it (see [Forms]), reaches the destination; everything else does,
// unchanged, in order, and as soon as it cannot be the beginning of one. Runs
// that overlap, nest or touch are one run, and a run is replaced by one mask,
// which names the value that began first and tells no length. A mask is never
// searched again. What was begun and not finished when the stream ends is not a
// value, and is written.
//
// # What is not
//
// Only contiguous bytes are matched. A value with a colour code inside, one that
// is reversed, compressed or encrypted, one that is printed a character a line,
// and one that comes half on one stream and half on another, pass. This is a
// guard against accidents.
//
// # How
//
// A filter that looks at a few bytes in twenty rules out nearly all of a text
// (filter.go); what it does not rule out goes through an automaton (trie.go). A
// byte costs the same however many values there are but for what misses the
// processor's caches, and at worst what the automaton does, which is linear.
package redact

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Pattern is a value to take out, under a name that may be shown.
type Pattern struct {
	Name  string
	Value []byte
}

// A Redactor knows values and gives out writers that mask them. It is safe for
// concurrent use, and may grow while its writers run.
type Redactor struct {
	minLength int

	mu       sync.Mutex // held while the automaton is replaced
	values   []Pattern
	unmasked []string
	current  atomic.Pointer[automaton]
}

// automaton is all that is known of the values at a time. It does not change.
type automaton struct {
	*trie
	*filter
	forms  []form
	values []Pattern
	masks  []string // by value
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
// began before it, as far as it is still held back. All forms are laid out anew:
// add many at once rather than one by one.
func (r *Redactor) Add(patterns ...Pattern) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range patterns {
		p.Value = bytes.Clone(p.Value)
		r.values = append(r.values, p)
	}
	r.unmasked = nil
	a := &automaton{values: slices.Clone(r.values), masks: make([]string, len(r.values))}
	for i, p := range a.values {
		a.masks[i] = "[redacted:" + p.Name + "]"
		forms := Forms(p.Value, r.minLength)
		if len(forms) == 0 {
			r.unmasked = append(r.unmasked, p.Name)
		}
		for _, f := range forms {
			a.forms = append(a.forms, form{f.Bytes, f.Kind, int32(i)})
		}
	}
	sorted := sortForms(a.forms)
	a.trie, a.filter = newTrie(sorted, len(a.forms)), newFilter(sorted)
	a.mark(sorted, a.filter)
	for i := range a.forms {
		a.forms[i].bytes = nil // they are in the trie now
	}
	r.current.Store(a)
}

// Unmasked returns the names of the patterns that are not masked because they
// are too short or blank.
func (r *Redactor) Unmasked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.unmasked)
}

// Empty reports whether there is nothing to mask.
func (r *Redactor) Empty() bool { return len(r.current.Load().forms) == 0 }

// Writer returns a new stream to dst. The caller closes it, which writes what
// is held back and does not close dst.
func (r *Redactor) Writer(dst io.Writer) *Writer { return &Writer{r: r, dst: dst} }

// TerminalWriter is Writer for a dst that is a terminal, where a person waits for
// what they type: when nothing has come for 30 ms, what is held back is shown if
// it is less than 4 bytes. It stays the beginning of a value for all that comes
// after it: the rest of the value is masked, so the whole of it never appears.
func (r *Redactor) TerminalWriter(dst io.Writer) *Writer {
	w := r.Writer(dst)
	w.idle = time.AfterFunc(time.Hour, w.show)
	w.idle.Stop()
	return w
}
