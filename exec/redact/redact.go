// Package redact masks known values in a byte stream, however the writes split it. It
// knows nothing of secrets, processes or Flyte: a value is bytes under a name.
//
// # What is guaranteed
//
// No run of bytes that equals a value, or one of its forms (see forms.Of of package forms and
// parts.Of of package parts), reaches the destination. Everything else does, unchanged, in
// order, and as soon as it can no longer be the beginning of a form. Runs that overlap, nest or
// touch are one run, which is replaced by one mask: [REDACTED:NAME], with the name of the value
// that began first. A mask shows no length and is never searched again. Bytes at the end of the
// stream that begin a form and do not finish it are written. If the forms of large values would
// take too much memory, some are left out; the plain value never is ([Redactor.Reduced]).
//
// # Silences
//
// A reader may wait for bytes that are held back: a client for the end of an answer, a person
// for a prompt. So a live stream ([Redactor.LiveWriter]) writes them at a silence, that is
// when nothing has been written to it for a while: up to three bytes after 30 ms; after a
// second also a longer beginning, up to a quarter of the form and 16 bytes; of a list of numbers, a
// quarter of the numbers and 16 of them. What is known to begin many values, such as "ghp_" or the
// first line of a PEM block, is not counted, nor is what a URL has in front of its secret part, nor
// what a mask stands for. A silence changes neither the state of the search nor what is counted: what
// has been written at one silence counts at the next. So no more than that is ever shown of an
// occurrence of a form, however many silences interrupt it, and the rest of it is masked.
//
// # What is not
//
// Only contiguous bytes are matched, and forms of 32 bytes or more that a program has wrapped, with
// line ends, margins and colour codes between pieces of 16 bytes or more: each piece is a run then
// (wrap.go). A value with a colour code inside a line passes, and so does one that is reversed,
// compressed, encrypted, printed one character a line, or split between two streams. Masking
// guards against accidents.
//
// # How it works
//
// A filter rules out most of a text without looking at each byte (filter.go). An automaton
// searches the rest (trie.go). The [Writer] moves between the two, holds back what may
// begin a form, and writes (writer.go). The filter looks at 4 bytes in every stride, which
// is the length of the shortest form minus 3, and at most 13, so values of 16 bytes cost
// less than values of 6; 17, if no form can be wrapped. The number of values matters only because the tables leave the
// caches of the processor. In the worst case a byte costs one step of the automaton, and
// the time is linear in the length of the text. Package redacttest has the plain rule to
// which the tests hold all of this; docs/explanation/benchmarks.md has the figures.
package redact

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Pattern is a value to mask, and a name to show in its place. A part of the value is shown
// as NAME.part, or by the name of a field of it, such as NAME.password.
type Pattern struct {
	Name  string
	Value []byte
}

// Mask returns the mask of the value of that name. Its word is in capitals because programs
// that print through Python's rich, as Flyte's CLI does, would take a word in small letters
// behind a bracket for markup and show nothing. Masks in small letters, which were written
// before, are text like any other.
func Mask(name string) string { return "[REDACTED:" + name + "]" }

// A Redactor has values, and makes writers that mask them. It is safe for concurrent use,
// also while its writers are in use.
type Redactor struct {
	minLength int
	stub      int // how many bytes of each form the first automaton has

	mu      sync.Mutex // held while the automaton is replaced
	values  []Pattern
	all     *expansion                // of the values; without the bytes of its forms once they are in current
	current atomic.Pointer[automaton] // nil until a writer needs it
}

// automaton is everything a writer needs to know of the values. It does not change: when
// values are added, another one takes its place.
type automaton struct {
	*trie
	*filter
	forms []form
	names []string // of the values, by form.owner
	masks []string // of the values, by form.owner
}

// New returns a Redactor of patterns. It does not mask values of fewer than minLength
// bytes, because too much innocent text is equal to them, nor empty and blank values:
// [Redactor.Unmasked] returns their names. New panics where [Redactor.Add] returns an error.
func New(minLength int, patterns ...Pattern) *Redactor {
	r := &Redactor{minLength: max(minLength, 1), stub: stubLength, all: &expansion{}}
	if err := r.Add(patterns...); err != nil {
		panic(err)
	}
	return r
}

// maxBytes bounds the bytes of all values together. The trie counts its nodes in 31 bits.
const maxBytes = 1 << 30

// Add adds patterns. Writers mask them from their next Write or Close on, including what
// they hold back at that time. The next write builds the tables of all values anew, so it
// is faster to add many values in one call than one by one. The tables take at most 16 MiB
// for one value and 64 MiB for all, if the values as they are fit: forms for which there is
// no room are left out ([Redactor.Reduced]). Add returns an error, and adds nothing, if the
// values had more than 1 GiB.
func (r *Redactor) Add(patterns ...Pattern) error {
	if len(patterns) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	values, total := slices.Clip(r.values), 0
	for _, p := range patterns {
		p.Value = bytes.Clone(p.Value)
		values = append(values, p)
	}
	for _, p := range values {
		if total += len(p.Value); total > maxBytes {
			return errors.New("more than 1 GiB of values cannot be masked")
		}
	}
	r.values, r.all = values, newExpansion(r.minLength, values)
	r.current.Store(nil)
	return nil
}

// automaton returns the automaton of the current values. The first call after a change
// builds it: a program that prints nothing need not wait for that.
func (r *Redactor) automaton() *automaton {
	if a := r.current.Load(); a != nil {
		return a
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.current.Load(); a != nil {
		return a
	}
	a := r.build(r.stub)
	r.current.Store(a)
	return a
}

// whole returns an automaton that has all bytes of the forms of the current values.
func (r *Redactor) whole() *automaton {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.current.Load(); a != nil && a.limit == unlimited {
		return a
	}
	a := r.build(unlimited)
	r.current.Store(a)
	return a
}

// stubLength is how many bytes of each form the first automaton has. Few texts have that many of a
// form that they do not have. With all bytes, 1000 values take 1.5 times as long to get ready.
const stubLength = 32

// build returns an automaton that has so many bytes of each form.
func (r *Redactor) build(limit int) *automaton {
	a := &automaton{forms: r.all.forms, names: r.all.names}
	for _, name := range a.names {
		a.masks = append(a.masks, Mask(name))
	}
	r.all.describe()
	sorted := sortForms(a.forms)
	a.trie, a.filter = newTrie(sorted, len(a.forms), limit), newFilter(sorted)
	a.mark(sorted, a.filter)
	if limit == unlimited {
		for i := range a.forms {
			a.forms[i].bytes = nil // they are in the trie now
		}
	}
	return a
}

// Longest returns the length of the longest form of the values in bytes, 0 if nothing is masked.
func (r *Redactor) Longest() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.longest
}

// Unmasked returns the names of the patterns that are not masked, because their values are
// too short or blank.
func (r *Redactor) Unmasked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all.unmasked)
}

// Common returns the names of the patterns that are words which most logs have in them. They
// are masked.
func (r *Redactor) Common() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all.common)
}

// Reduced returns the names of the patterns that are not searched for in all forms, because
// these would take too much memory, or have more parts than are looked at.
func (r *Redactor) Reduced() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all.reduced)
}

// Empty reports whether no value is masked.
func (r *Redactor) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all.forms) == 0
}

// Writer returns a new stream that writes to dst. The caller must close it, which writes
// what is held back and does not close dst.
func (r *Redactor) Writer(dst io.Writer) *Writer { return &Writer{r: r, dst: dst} }

// LiveWriter is like Writer, for a dst whose reader may wait for the next bytes: a person at a
// terminal, or a program at the other end of a pipe. At a silence of the stream it writes what
// is held back, as long as that tells little of a value; see the package comment. The rest of
// the value is masked all the same, so a whole value never appears.
func (r *Redactor) LiveWriter(dst io.Writer) *Writer {
	w := r.Writer(dst)
	w.timer = time.AfterFunc(time.Hour, w.silence)
	w.timer.Stop()
	return w
}
