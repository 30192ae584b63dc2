package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// A deleting is a DeleteEqual under way.
type deleting struct {
	run

	from store.Store

	trying sync.Mutex
	tried  bool // a deletion has shown that from and to are two stores
}

// one deletes a secret from the source, if the target has the same.
func (d *deleting) one(ctx context.Context, listed store.Info, _ *Result) Result {
	p, result := d.compare(ctx, listed.Ref)
	switch {
	case result.State != "" && result.State != Equal:
		return result
	case !p.there:
		return Result{Ref: listed.Ref, State: Missing}
	case result.State != Equal:
		return p.differs()
	case d.DryRun:
		return Result{Ref: listed.Ref, State: Deleted}
	}
	d.trying.Lock()
	if d.tried {
		d.trying.Unlock()
		return d.delete(ctx, p)
	}
	defer d.trying.Unlock()
	if d.stopped() != nil {
		return Result{} // never begun
	}
	if result = d.delete(ctx, p); result.State == Deleted {
		result = d.try(ctx, p)
	}
	return result
}

func (d *deleting) delete(ctx context.Context, p pair) Result {
	var err error
	if from, ok := d.from.(careful); ok {
		var done bool
		if done, err = from.DeleteFrom(ctx, p.from.Ref, p.value); err == nil && !done {
			err = errChanged
		}
	} else {
		err = d.from.Delete(ctx, p.from.Ref)
	}
	if err != nil {
		return failed(p.from.Ref, "source", err)
	}
	return Result{Ref: p.from.Ref, State: Deleted}
}

// try looks whether the target still has a secret that was deleted from the source. If not, both are
// one store, which may have two addresses that look different: the secret is created again, and the
// run ends. The first deletion shows it for all.
func (d *deleting) try(ctx context.Context, p pair) Result {
	ref := p.from.Ref
	_, _, err := d.to.Get(ctx, ref)
	switch {
	case err == nil:
		d.tried = true
		return Result{Ref: ref, State: Deleted}
	case !errors.Is(err, secret.ErrNotFound):
		d.stopFor(hopeless(fmt.Errorf("target: %w", err)))
		return Result{Ref: ref, State: Deleted}
	}
	d.stopFor(ErrSame)
	if err := createCopy(ctx, d.from, p.copied()); err != nil {
		return failed(ref, "it was deleted, and could not be created again, because both stores are one", err)
	}
	return Result{ref, Failed, errors.New("it was deleted and created again, because both stores are one")}
}
