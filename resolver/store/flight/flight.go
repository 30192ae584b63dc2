// Package flight is a store in front of another store. It reads each secret once for all requests
// that ask for it at the same time, so ten thousand tasks that start together cost the backend one
// read for each secret.
//
// It is not a cache. The result of a read is given to requests that arrived while the read was
// under way and, because a task does not read all its secrets at the same time, to tasks that had
// begun before the read ended (see [Flights.Begin]). A task that begins later causes a new read. After a
// change made through this store, the results of earlier reads of that secret are not given out
// any more. So every write is seen by the next read.
//
// A [store.Remote] may also be changed by other processes, of whose changes nothing is known here. A
// read of it that is under way may have seen the secret as it was before a change that a request knows
// of. So a request shares only reads that begin after it. So that many requests still share one, a
// secret is read once at a time: those that arrive during a read share the next, which begins when
// that one ends. Each waits for two reads at most.
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

// Backend is the store whose reads are shared.
type Backend interface {
	store.Reader
	store.Lister
}

// readTime limits a read of the backend. The read serves many requests, so the deadline of the one
// that started it does not apply.
const readTime = time.Minute

// Bounds on the finished reads that are kept for tasks that began earlier. Beyond them such tasks
// read again.
const (
	keepReads = 4096
	keepBytes = 16 << 20 // of values
)

// Flights are the reads of one backend: those under way, and finished ones that a task may still
// use. Safe for concurrent use if the backend is.
type Flights struct {
	backend Backend
	observe Observer
	others  bool // whether other processes may change the backend

	mu      sync.Mutex
	clock   uint64             // counts the beginnings of tasks and of flights, and the ends of flights
	begun   *list.List         // of uint64: the clock when each task under way began, in order
	flights map[string]*flight // the latest flight of each secret, by its ID: it waits, reads, or has landed
	landed  *list.List         // of *flight: those in flights that have ended, in the order of their ends
	bytes   int                // the length of the values in landed
}

// An Observer is called when a read of the backend begins, or begins to wait for another read of the
// secret, with the context of the request that causes it and before that request continues. The
// function that it returns is called when the read has ended, with its duration and its result, however
// long ago the request gave up. Both must be safe for concurrent use, and must not read through the
// flights.
type Observer func(ctx context.Context) (ended func(took time.Duration, err error))

// New returns the flights of b. observe may be nil.
//
// A read of the backend does not end when a caller gives up, because other callers may wait for it,
// and tasks that ask later may use it: see [Flights.Begin]. Reads that are given up again and again
// would otherwise begin again and again. A change made in the backend by other means is seen by requests
// that begin after it if the backend is a [store.Remote], and else by reads that begin after it.
func New(b Backend, observe Observer) *Flights {
	return &Flights{
		backend: b, observe: observe, others: store.IsRemote(b),
		begun: list.New(), flights: map[string]*flight{}, landed: list.New(),
	}
}

// Store returns the backend with shared reads. It is a [store.Manager] or a [store.Importer] if the
// backend is one.
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

// Begin marks the beginning of a task that reads several secrets. Reads with the returned context may
// share every read of the backend that ends from now on or, of a [store.Remote], that begins from now
// on, whichever task caused it. The caller must call end once, when it has read everything.
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

// forget drops the finished reads that no task can use, because they ended before the oldest task
// under way began, and the oldest ones beyond the bounds. f.mu must be held.
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

// drop removes l, so that no request joins it any more. f.mu must be held.
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
	began   uint64        // the clock when it began; 0 while it waits for the one before it
	ended   uint64        // the clock when it ended
	done    chan struct{} // closed when it has ended; the result below is valid from then on
	element *list.Element // its place in landed; nil if it is not there

	observed func(took time.Duration, err error) // what the Observer has returned

	value secret.Value
	info  store.Info
	err   error
}

// join returns the flight that reads ref for a request with ctx: one that it may share, or a new
// one.
func (f *Flights) join(ctx context.Context, ref secret.Ref) *flight {
	id := ref.ID()
	f.mu.Lock()
	defer f.mu.Unlock()
	var before *flight // has to end first
	if l := f.flights[id]; l != nil {
		switch {
		case f.mayShare(ctx, l):
			return l
		case l.element == nil:
			before = l
		default:
			f.drop(l)
		}
	}
	l := &flight{id: id, done: make(chan struct{}), observed: func(time.Duration, error) {}}
	if f.observe != nil {
		l.observed = f.observe(ctx)
	}
	if before == nil {
		f.begin(l)
	}
	f.flights[id] = l
	go f.fly(context.WithoutCancel(ctx), ref, l, before)
	return l
}

// mayShare reports whether a request with ctx may have the result of l, the latest flight of its
// secret. f.mu must be held.
func (f *Flights) mayShare(ctx context.Context, l *flight) bool {
	task, ok := ctx.Value(beganKey{}).(uint64)
	if f.others {
		return l.began == 0 || ok && task < l.began
	}
	return l.element == nil || ok && task < l.ended
}

// begin notes that the read of l begins. f.mu must be held.
func (f *Flights) begin(l *flight) {
	f.clock++
	l.began = f.clock
}

// fly reads ref, when the flight before has ended if there is one. Unless a change has dropped l
// meanwhile, or another flight waits for it, it keeps the result for as long as a task may use it.
func (f *Flights) fly(ctx context.Context, ref secret.Ref, l, before *flight) {
	if before != nil {
		<-before.done
		f.mu.Lock()
		f.begin(l)
		f.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	f.read(ctx, ref, l)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clock++
	l.ended = f.clock
	close(l.done)
	if f.flights[l.id] == l {
		l.element = f.landed.PushBack(l)
		f.bytes += l.value.Len()
		f.forget()
	}
}

func (f *Flights) read(ctx context.Context, ref secret.Ref, l *flight) {
	start := time.Now()
	defer func() {
		// A panic in this goroutine would end the process. Its text is not reported, because it may
		// contain a value.
		if p := recover(); p != nil {
			l.value, l.info = secret.Value{}, store.Info{}
			err := fmt.Errorf("%w: the store panicked with a %T", secret.ErrUnavailable, p)
			l.err = &secret.Error{Op: "get", Ref: ref, Err: err}
		}
		l.observed(time.Since(start), l.err)
	}()
	l.value, l.info, l.err = f.backend.Get(ctx, ref)
}

// changed drops what was read of ref so far. It is called after every attempt to change ref, also a
// failed one, which may have been made all the same, and before the caller of the change continues.
func (f *Flights) changed(ref secret.Ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l := f.flights[ref.ID()]; l != nil {
		f.drop(l)
	}
}

// reads is the backend with shared reads.
type reads struct {
	Backend

	flights *Flights
}

// Get implements [store.Reader].
func (r *reads) Get(ctx context.Context, ref secret.Ref) (secret.Value, store.Info, error) {
	err := ctx.Err()
	if err == nil {
		err = ref.Validate() // only a valid ref has an ID that no other ref has
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

// Remote implements [store.Remote].
func (r *reads) Remote() bool { return store.IsRemote(r.Backend) }

// changes is reads for a backend that is a manager.
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

// imports is changes for a backend that is an importer.
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
