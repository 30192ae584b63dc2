// Package flight is a store in front of another one that reads each secret once for
// everyone who asks for it at the same time: ten thousand tasks that start together
// cost the backend one read per secret.
//
// It is no cache. What was read is given to those who asked while it was being read,
// and to nobody later; and a read that has begun before a change is given to nobody
// who asks after the change was made, so that a write is seen by the next read.
package flight

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

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

// New returns b with its reads coalesced: a [store.Manager] if b is one, a
// [store.Importer] if b is one. observe, if not nil, is told of each read of the
// backend, how long it took and how it ended; several goroutines call it. Safe for
// concurrent use if b is.
//
// The backend is read under no caller's context: a caller that gives up leaves the read
// to the others. A change that somebody else makes in the backend is seen by the reads
// that begin after it.
func New(b Backend, observe func(took time.Duration, err error)) Backend {
	r := &reads{Backend: b, observe: observe}
	if i, ok := b.(store.Importer); ok {
		return &imports{changes{r, i}, i}
	}
	if m, ok := b.(store.Manager); ok {
		return &changes{r, m}
	}
	return r
}

// reads coalesces.
type reads struct {
	Backend

	observe func(time.Duration, error)
	flights singleflight.Group
}

// read is what one read of the backend gives to everyone who waited for it.
type read struct {
	value secret.Value
	info  store.Info
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
	landed := r.flights.DoChan(ref.ID(), func() (any, error) { return r.get(context.WithoutCancel(ctx), ref) })
	select {
	case l := <-landed:
		got, _ := l.Val.(read) // the zero one with an error
		return got.value, got.info, l.Err
	case <-ctx.Done():
		return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: ref, Err: fmt.Errorf("%w: %w", secret.ErrUnavailable, context.Cause(ctx))}
	}
}

func (r *reads) get(ctx context.Context, ref secret.Ref) (got read, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	start := time.Now()
	defer func() {
		// Here it would end the process, as this goroutine is nobody's. What it panicked
		// with is not told: a value may be in it.
		if p := recover(); p != nil {
			got, err = read{}, &secret.Error{Op: "get", Ref: ref, Err: fmt.Errorf("%w: the store panicked with a %T", secret.ErrUnavailable, p)}
		}
		if r.observe != nil {
			r.observe(time.Since(start), err)
		}
	}()
	got.value, got.info, err = r.Backend.Get(ctx, ref)
	return got, err
}

// changed sees to it that nobody joins a read of refs that has begun by now. It is
// called when a change has been made, or may have been, and before that is told.
func (r *reads) changed(ref secret.Ref) { r.flights.Forget(ref.ID()) }

// changes is reads in front of a manager.
type changes struct {
	*reads

	manager store.Manager
}

// Create implements [store.Manager].
func (c *changes) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	defer c.changed(ref)
	return c.manager.Create(ctx, ref, v, t)
}

// Update implements [store.Manager].
func (c *changes) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	defer c.changed(ref)
	return c.manager.Update(ctx, ref, v)
}

// Delete implements [store.Manager].
func (c *changes) Delete(ctx context.Context, ref secret.Ref) error {
	defer c.changed(ref)
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
			i.changed(n.Ref)
		}
	}()
	return i.importer.Import(ctx, secrets)
}
