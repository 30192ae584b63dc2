// Package flight is a store in front of another one that reads each secret once for
// everyone who asks for it at the same time: ten thousand tasks that start together
// cost the backend one read per secret.
//
// It is no cache. What was read is given to those who asked while it was being read, or
// had begun by then (see [Flights.Begin]), and to nobody who begins later; and what was
// read before a change is given to nobody who asks after the change was made. So a write
// is seen by the next read.
package flight

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// Backend is what a flight stands in front of.
type Backend interface {
	store.Reader
	store.Lister
}

// readTime is how long a read of the backend may take when nobody's own deadline ends
// it: it is done for many, so the first one's does not.
const readTime = time.Minute

// What is kept of reads that have ended, for those who had begun before them. When there
// is more, some of those read again.
const (
	keepReads = 4096
	keepBytes = 16 << 20 // of values
)

// Flights are the reads of one backend that are under way, and those that are still of
// use to somebody. Safe for concurrent use if the backend is.
type Flights struct {
	backend Backend
	observe func(time.Duration, error)

	mu      sync.Mutex
	clock   uint64             // one more with each beginning, and each end of a flight
	begun   *list.List         // of uint64: when those who have not ended began, in order
	flights map[string]*flight // by the ID of what is read: the latest of each
	landed  *list.List         // of *flight: those of flights that have ended, in that order
	bytes   int                // of their values
}

// New returns the flights of b. observe, if not nil, is told of each read of the
// backend, how long it took and how it ended; several goroutines call it.
//
// The backend is read under no caller's context: a caller that gives up leaves the read
// to the others. A change that somebody else makes in the backend is seen by the reads
// that begin after it.
func New(b Backend, observe func(took time.Duration, err error)) *Flights {
	return &Flights{backend: b, observe: observe, begun: list.New(), flights: map[string]*flight{}, landed: list.New()}
}

// Store returns the backend with its reads coalesced: a [store.Manager] if the backend is
// one, a [store.Importer] if the backend is one.
func (f *Flights) Store() Backend {
	r := reads{f.backend, f}
	if i, ok := f.backend.(store.Importer); ok {
		return &imports{changes{r, i}, i}
	}
	if m, ok := f.backend.(store.Manager); ok {
		return &changes{r, m}
	}
	return &r
}

type beganKey struct{}

// Begin says that who has ctx begins to read several secrets, one after the other, and
// may be given what is being read at any time from now on, also by others. The reads are
// those under the context that is returned; end is called when they are done, once.
func (f *Flights) Begin(ctx context.Context) (_ context.Context, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	e := f.begun.PushBack(f.clock)
	return context.WithValue(ctx, beganKey{}, f.clock), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.begun.Remove(e)
		f.forget()
	}
}

// forget drops what is of no use: what had been read when the first of those who have not
// ended began, and what is too much.
func (f *Flights) forget() {
	first := f.clock + 1
	if e := f.begun.Front(); e != nil {
		first, _ = e.Value.(uint64)
	}
	for e := f.landed.Front(); e != nil; e = f.landed.Front() {
		l, _ := e.Value.(*flight)
		if l.ended > first && f.landed.Len() <= keepReads && f.bytes <= keepBytes {
			break
		}
		f.drop(l)
	}
}

// drop sees to it that nobody joins l.
func (f *Flights) drop(l *flight) {
	delete(f.flights, l.id)
	if l.element != nil {
		f.landed.Remove(l.element)
		f.bytes -= l.value.Len()
		l.element = nil
	}
}

// A flight is one read of the backend.
type flight struct {
	id      string
	ended   uint64        // when it did
	done    chan struct{} // closed when it has ended, with what follows
	element *list.Element // in landed; nil if it is not there

	value secret.Value
	info  store.Info
	err   error
}

// join returns the flight in which ref is read for who has ctx.
func (f *Flights) join(ctx context.Context, ref secret.Ref) *flight {
	id := ref.ID()
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.flights[id]; l != nil {
		if began, ok := ctx.Value(beganKey{}).(uint64); l.element == nil || ok && began < l.ended {
			return l
		}
		f.drop(l)
	}
	l := &flight{id: id, done: make(chan struct{})}
	f.flights[id] = l
	go f.fly(context.WithoutCancel(ctx), ref, l)
	return l
}

// fly reads, and keeps what was read while it is of use.
func (f *Flights) fly(ctx context.Context, ref secret.Ref, l *flight) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	f.read(ctx, ref, l)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	l.ended = f.clock
	close(l.done)
	if f.flights[l.id] == l { // and no change has dropped it
		l.element = f.landed.PushBack(l)
		f.bytes += l.value.Len()
		f.forget()
	}
}

func (f *Flights) read(ctx context.Context, ref secret.Ref, l *flight) {
	start := time.Now()
	defer func() {
		// Here it would end the process, as this goroutine is nobody's. What it panicked
		// with is not told: a value may be in it.
		if p := recover(); p != nil {
			l.value, l.info = secret.Value{}, store.Info{}
			err := fmt.Errorf("%w: the store panicked with a %T", secret.ErrUnavailable, p)
			l.err = &secret.Error{Op: "get", Ref: ref, Err: err}
		}
		if f.observe != nil {
			f.observe(time.Since(start), l.err)
		}
	}()
	l.value, l.info, l.err = f.backend.Get(ctx, ref)
}

// changed sees to it that nobody is given what was read of ref by now. It is called when
// a change has been made, or may have been, and before that is told.
func (f *Flights) changed(ref secret.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.flights[ref.ID()]; l != nil {
		f.drop(l)
	}
}

// reads coalesces.
type reads struct {
	Backend

	flights *Flights
}

// Get implements [store.Reader].
func (r *reads) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	err := ctx.Err()
	if err == nil {
		err = ref.Validate() // an ID is one of one secret only if the ref is valid
	}
	if err != nil {
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
	}
	l := r.flights.join(ctx, ref)
	select {
	case <-l.done:
		return l.value, l.info, l.err
	case <-ctx.Done():
		err := fmt.Errorf("%w: %w", secret.ErrUnavailable, context.Cause(ctx))
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: err}
	}
}

// changes is reads in front of a manager.
type changes struct {
	reads

	manager store.Manager
}

// Create implements [store.Manager].
func (c *changes) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	defer c.flights.changed(ref)
	return c.manager.Create(ctx, ref, v, t)
}

// Update implements [store.Manager].
func (c *changes) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	defer c.flights.changed(ref)
	return c.manager.Update(ctx, ref, v)
}

// Delete implements [store.Manager].
func (c *changes) Delete(ctx context.Context, ref secret.Ref) error {
	defer c.flights.changed(ref)
	return c.manager.Delete(ctx, ref)
}

// imports is changes in front of an importer.
type imports struct {
	changes

	importer store.Importer
}

// Import implements [store.Importer].
func (i *imports) Import(ctx context.Context, secrets []store.New) error {
	defer func() {
		for _, n := range secrets {
			i.flights.changed(n.Ref)
		}
	}()
	return i.importer.Import(ctx, secrets)
}
