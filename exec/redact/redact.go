// Package redact takes known values out of a byte stream, whatever the writes
// by which they come. It has never heard of secrets, processes or Flyte.
//
// # What is guaranteed
//
// No run of bytes that equals a value, or one of the forms in which programs
// write it (see [forms.Of]), reaches the destination; everything else does,
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
// A filter rules out nearly all of a text (filter.go); what it does not rule out
// goes through an automaton (trie.go). The filter looks at four bytes in as many
// as the shortest form has, less three and at most 17: values of 20 bytes cost
// less than those of 6. How many there are matters only to the processor's
// caches. At worst a byte costs what the automaton does, which is linear.
package redact

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"inject/exec/redact/forms"
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
	forms    []form // of the values; without their bytes once there is an automaton
	unmasked []string
	current  atomic.Pointer[automaton] // nil until it is needed
}

// automaton is all that is known of the values at a time. It does not change.
type automaton struct {
	*trie
	*filter
	forms []form
	names []string // of the values
	masks []string
}

// New returns a Redactor of patterns. Values of fewer than minLength bytes are
// not masked, because too much else is equal to them; neither are empty and
// blank ones. See [Redactor.Unmasked]. It panics where [Redactor.Add] returns an
// error.
func New(minLength int, patterns ...Pattern) *Redactor {
	r := &Redactor{minLength: max(minLength, 1)}
	if err := r.Add(patterns...); err != nil {
		panic(err)
	}
	return r
}

// maxBytes bounds the forms of all values together. They are all looked at when
// one is added, and take up to twice that much memory.
const maxBytes = 1 << 30

// Add adds patterns. Writers mask them from their next Write or Close on, also
// when they began before it, as far as that is still held back. All forms are
// laid out anew, by the first of them that writes: add many at once rather than
// one by one. It returns an error, and adds nothing, if there were more than 1 GiB
// of forms.
func (r *Redactor) Add(patterns ...Pattern) error {
	if len(patterns) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	values, unmasked := slices.Clip(r.values), []string(nil)
	for _, p := range patterns {
		p.Value = bytes.Clone(p.Value)
		values = append(values, p)
	}
	var found []form
	total := 0
	for i, p := range values {
		all := forms.Of(p.Value, r.minLength)
		if len(all) == 0 {
			unmasked = append(unmasked, p.Name)
		}
		for _, f := range all {
			found = append(found, form{f.Bytes, f.Kind, int32(i)})
			if total += len(f.Bytes); total > maxBytes {
				return errors.New("more than 1 GiB of values, in all their forms, cannot be masked")
			}
		}
	}
	r.values, r.forms, r.unmasked = values, found, unmasked
	r.current.Store(nil)
	return nil
}

// automaton returns what is known of the values with their forms. It is made when
// it is needed: a program that prints nothing is not kept waiting for it.
func (r *Redactor) automaton() *automaton {
	if a := r.current.Load(); a != nil {
		return a
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.current.Load(); a != nil {
		return a
	}
	a := &automaton{forms: r.forms}
	for _, p := range r.values {
		a.names = append(a.names, p.Name)
		a.masks = append(a.masks, "[redacted:"+p.Name+"]")
	}
	sorted := sortForms(a.forms)
	a.trie, a.filter = newTrie(sorted, len(a.forms)), newFilter(sorted)
	a.mark(sorted, a.filter)
	for i := range a.forms {
		a.forms[i].bytes = nil // they are in the trie now
	}
	r.current.Store(a)
	return a
}

// Unmasked returns the names of the patterns that are not masked because they
// are too short or blank.
func (r *Redactor) Unmasked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.unmasked)
}

// Empty reports whether there is nothing to mask.
func (r *Redactor) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.forms) == 0
}

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
