// Package migrate copies the secrets of one store to another, and deletes from the first store what
// the second one has. It knows stores by their interfaces alone.
//
// Both can be interrupted at any time and begun again. There is no record of what was done: each
// run compares the stores secret by secret, and changes nothing that is equal. So a second run is
// also the check of the first.
package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// A Reader is a store that is compared with another one.
type Reader interface {
	store.Reader
	store.Lister
}

// A State is what became of one secret, or what would become of it.
type State string

// The states.
const (
	Created State = "created" // it was created in the target, and read back
	Updated State = "updated" // its value in the target was replaced, and read back
	Equal   State = "equal"   // the target has it with the same value and type
	Differs State = "differs" // the target has it with another value or type, which was kept
	Refused State = "refused" // the target cannot hold it
	Failed  State = "failed"  // it could not be read, written or deleted
	Gone    State = "gone"    // the source no longer had it after it was listed
	Deleted State = "deleted" // it was deleted from the source
	Missing State = "missing" // it was not deleted from the source, because the target does not have it
	// Lost is not of one secret: damage of the source hides the names of one or more.
	Lost State = "lost"
)

// A Result is what became of one secret.
type Result struct {
	Ref   secret.Ref // zero for Lost
	State State
	// Err is why, for a secret that Differs, is Refused, has Failed or is Lost. It has no value of a
	// secret.
	Err error
}

// Overwrite says which secrets of the target are replaced by those of the source.
type Overwrite int

// The choices. Older goes by the times at which the stores say that the secret was last updated.
const (
	None  Overwrite = iota // none
	Older                  // those whose value differs and was updated before the source's
	All                    // those whose value differs
)

// Options say what is done.
type Options struct {
	Overwrite Overwrite // of a Copy
	DryRun    bool      // change nothing; results are what would be done
	// Report is called with each result, one at a time and roughly in the order of the source's
	// list. Its error ends the run.
	Report func(Result) error
}

// A salvager is a store that can be read past its damage, where a list would end.
type salvager interface {
	Salvage(ctx context.Context, yield func(store.Info, error) error) error
}

// A keeper is a store that takes a secret of another store although it would not create one of that
// name anew, and that tells before it is tried which ones it cannot hold. An [store.Importer] is another
// way: see [store.New].
type keeper interface {
	Holds(n store.New) error
	CreateCopy(ctx context.Context, n store.New) error
}

// A careful store makes a change only if the secret still has the value was, because others may change
// it at the same time. Otherwise done is false.
type careful interface {
	UpdateFrom(ctx context.Context, ref secret.Ref, was, v secret.Value) (done bool, err error)
	DeleteFrom(ctx context.Context, ref secret.Ref, was secret.Value) (done bool, err error)
}

var errChanged = errors.New("it was changed meanwhile: run it again")

// The bounds of what is held and done at the same time.
const (
	workers    = 16      // secrets that are compared at the same time; each takes two values
	batchCount = 1000    // secrets that are imported at once
	batchBytes = 4 << 20 // of their values
	pageSize   = 1000    // results that are held until they are reported
	// maxFailing is how many failures in a row end the run, if they are not about the secret: those of
	// a store that does not answer, denies, or is full. The rest would fail as well.
	maxFailing = 20
	// opTime bounds what is done about one secret, or one import. It is not cut short when the run is
	// interrupted, so that it is known what was done.
	opTime = time.Minute
)

// ErrSame is the error of DeleteEqual if its two stores are one.
var ErrSame = fmt.Errorf("%w: both addresses are of the same store", secret.ErrInvalid)

// A run is one Copy or DeleteEqual under way.
type run struct {
	Options

	from, to Reader

	mu      sync.Mutex
	failing int   // failures in a row
	stop    error // why the run ends early
}

// Copy copies every secret of from to to, with its type and, if to is a [store.Importer], with its
// times. It reads back what it wrote. A secret that to has already is Equal, or it Differs and is
// kept, unless o.Overwrite says otherwise.
//
// The error says why the run ended before the end of from's list: ctx ended, a list failed, a store
// stopped to answer, or o.Report failed. Everything else is in the results.
func Copy(ctx context.Context, from Reader, to store.Store, o Options) error {
	c := &copying{run: run{Options: o, from: from, to: to}, to: to}
	c.importer, _ = to.(store.Importer)
	c.keeper, _ = to.(keeper)
	pages := list(ctx, from)
	if s, ok := from.(salvager); ok {
		pages = salvage(ctx, s)
	}
	return c.each(ctx, pages, c.one, c.flush)
}

// DeleteEqual deletes every secret of from that to has with the same value and type. Secrets that
// differ, or that to does not have, stay. The error is as that of Copy, and [ErrSame] if the first
// deletion shows that from and to are one store; it is then undone.
func DeleteEqual(ctx context.Context, from store.Store, to Reader, o Options) error {
	d := &deleting{run: run{Options: o, from: from, to: to}, from: from}
	return d.each(ctx, list(ctx, from), d.one, nil)
}

// A found is a place of a list: a secret, or damage in place of one or of several.
type found struct {
	info   store.Info
	damage error
}

// list returns pages of the secrets of a store.
func list(ctx context.Context, from store.Lister) iter.Seq2[[]found, error] {
	return func(yield func([]found, error) bool) {
		for token := ""; ; {
			infos, next, err := from.List(ctx, store.Filter{}, 0, token)
			if err != nil {
				yield(nil, fmt.Errorf("source: %w", err))
				return
			}
			for part := range slices.Chunk(infos, pageSize) {
				page := make([]found, len(part))
				for i, info := range part {
					page[i].info = info
				}
				if !yield(page, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			token = next
		}
	}
}

// errEnough ends a Salvage whose caller wants no more.
var errEnough = errors.New("enough")

// salvage returns pages of what is left of the secrets of a store.
func salvage(ctx context.Context, from salvager) iter.Seq2[[]found, error] {
	return func(yield func([]found, error) bool) {
		var page []found
		err := from.Salvage(ctx, func(info store.Info, damage error) error {
			if page = append(page, found{info, damage}); len(page) < pageSize {
				return nil
			}
			full := page
			page = nil
			if !yield(full, nil) {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) || len(page) > 0 && !yield(page, nil) {
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("source: %w", err))
		}
	}
}

// each calls do for each secret of pages, for many at the same time, and reports the results page by
// page. do returns the result, or one without a state if it is not known yet: then it is written to
// later before end returns, which is called at the end of each page unless it is nil.
func (r *run) each(
	ctx context.Context, pages iter.Seq2[[]found, error],
	do func(ctx context.Context, info store.Info, later *Result) Result, end func(ctx context.Context),
) error {
	for page, err := range pages {
		if err != nil && ctx.Err() == nil {
			return err
		}
		results := make([]Result, len(page))
		var group errgroup.Group
		group.SetLimit(workers)
		for i, f := range page {
			if f.damage != nil {
				results[i] = Result{State: Lost, Err: f.damage}
				continue
			}
			if ctx.Err() != nil || r.stopped() != nil {
				break
			}
			results[i].Ref = f.info.Ref
			group.Go(func() error {
				ctx, cancel := whole(ctx)
				defer cancel()
				if result := do(ctx, f.info, &results[i]); result.State != "" {
					results[i] = result
					r.count(result)
				}
				return nil
			})
		}
		_ = group.Wait() // the functions return nil
		if end != nil {
			ctx, cancel := whole(ctx)
			end(ctx)
			cancel()
		}
		for _, result := range results {
			if result.State == "" { // not begun, because the run ends
				continue
			}
			if err := r.Report(result); err != nil {
				return err
			}
		}
		if err := cmp.Or(context.Cause(ctx), r.stopped()); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// whole returns the context of what is done about one secret. It does not end with ctx.
func whole(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), opTime)
}

func (r *run) stopped() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop
}

// stopFor ends the run early. The first reason is kept.
func (r *run) stopFor(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		r.stop = err
	}
}

// hopeless is the reason of a run that ends because err is not about one secret.
func hopeless(err error) error {
	return fmt.Errorf("the run has ended early, because the rest would fail as well: %w", err)
}

// count counts failures in a row that are not about their secrets, and ends the run if they are too
// many.
func (r *run) count(result Result) {
	err := result.Err
	general := result.State == Failed &&
		(errors.Is(err, secret.ErrUnavailable) || errors.Is(err, secret.ErrDenied) || errors.Is(err, secret.ErrQuota))
	r.mu.Lock()
	if !general {
		r.failing = 0
	} else {
		r.failing++
	}
	failing := r.failing
	r.mu.Unlock()
	if failing >= maxFailing {
		r.stopFor(hopeless(err))
	}
}

// A pair is a secret of the source, and what the target has in its place.
type pair struct {
	value, was secret.Value // of the source and the target
	from, to   store.Info
	there      bool // the target has it, with another value
}

// compare reads a secret of both stores. The result has a state if that settles it: if it is equal,
// or cannot be compared.
func (r *run) compare(ctx context.Context, ref secret.Ref) (p pair, result Result) {
	v, from, err := r.from.Get(ctx, ref)
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return p, Result{Ref: ref, State: Gone}
	case err != nil:
		return p, failed(ref, "source", err)
	}
	was, to, err := r.to.Get(ctx, ref)
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return pair{value: v, from: from}, Result{}
	case err != nil:
		return p, failed(ref, "target", err)
	case from.Type != to.Type:
		return p, Result{ref, Differs, fmt.Errorf("the source's is of type %v, and the target's of type %v",
			from.Type, to.Type)}
	case v.Equal(was):
		return pair{v, was, from, to, true}, Result{Ref: ref, State: Equal}
	}
	return pair{v, was, from, to, true}, Result{}
}

// copied returns what the other store will have of a secret of the source.
func (p *pair) copied() store.New {
	return store.New{
		Ref: p.from.Ref, Value: p.value, Type: p.from.Type,
		Copied: true, Created: p.from.Created, Updated: p.from.Updated,
	}
}

// differs returns the result of a secret whose values differ.
func (p *pair) differs() Result {
	why := "the values are of the same time"
	switch {
	case p.from.Updated.After(p.to.Updated):
		why = "the source's value is newer"
	case p.to.Updated.After(p.from.Updated):
		why = "the target's value is newer"
	}
	return Result{p.from.Ref, Differs, errors.New(why)}
}

// failed returns the result of an operation of one of the two stores, side, that failed.
func failed(ref secret.Ref, side string, err error) Result {
	if e, ok := errors.AsType[*secret.Error](err); ok { // the result names the secret already
		err = fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return Result{ref, Failed, fmt.Errorf("%s: %w", side, err)}
}
