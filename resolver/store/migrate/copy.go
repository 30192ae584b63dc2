package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// A copying is a Copy under way.
type copying struct {
	run

	to       store.Store
	importer store.Importer // nil if the target is none: then secrets are created one by one
	keeper   keeper         // nil if the target is none
	batch    batch
}

// A batch is secrets that will be imported at once, with the places of their results. One
// transaction of a file takes as long for a thousand secrets as for few.
type batch struct {
	mu      sync.Mutex
	secrets []store.New
	results []*Result
	bytes   int
}

// one copies a secret, or leaves it in the batch, which has the result later.
func (c *copying) one(ctx context.Context, listed store.Info, later *Result) Result {
	p, result := c.compare(ctx, listed.Ref)
	switch {
	case result.State != "":
		return result
	case !p.there:
		return c.create(ctx, p, later)
	case c.Overwrite == All, c.Overwrite == Older && p.to.Updated.Before(p.from.Updated):
		return c.update(ctx, p)
	}
	return p.differs()
}

func (c *copying) create(ctx context.Context, p pair, later *Result) Result {
	n := p.copied()
	if err := c.holds(n); err != nil {
		return Result{n.Ref, Refused, err}
	}
	switch {
	case c.DryRun:
		return Result{Ref: n.Ref, State: Created}
	case c.importer != nil:
		c.later(ctx, n, later)
		return Result{}
	}
	return c.wrote(ctx, n, Created, createCopy(ctx, c.to, n))
}

// createCopy creates n in a store, which takes its name as it is if it can.
func createCopy(ctx context.Context, to store.Store, n store.New) error {
	switch to := to.(type) {
	case store.Importer:
		return to.Import(ctx, []store.New{n})
	case keeper:
		return to.CreateCopy(ctx, n)
	}
	return to.Create(ctx, n.Ref, n.Value, n.Type)
}

// holds returns why the target cannot hold n, and nil if it can.
func (c *copying) holds(n store.New) error {
	switch {
	case c.keeper != nil:
		return c.keeper.Holds(n)
	case c.importer != nil:
		return store.Writable(n.Ref, n.Value)
	}
	return store.Creatable(n.Ref, n.Value)
}

func (c *copying) update(ctx context.Context, p pair) Result {
	if c.DryRun {
		return Result{Ref: p.from.Ref, State: Updated}
	}
	n := store.New{Ref: p.from.Ref, Value: p.value, Type: p.from.Type}
	if to, ok := c.to.(careful); ok {
		done, err := to.UpdateFrom(ctx, n.Ref, p.was, n.Value)
		if err == nil && !done {
			err = errChanged
		}
		return c.wrote(ctx, n, Updated, err)
	}
	return c.wrote(ctx, n, Updated, c.to.Update(ctx, n.Ref, n.Value))
}

// wrote returns the result of a change that ended with err. It reads back what was written.
func (c *copying) wrote(ctx context.Context, n store.New, state State, err error) Result {
	if err != nil {
		result := failed(n.Ref, "target", err)
		if errors.Is(err, secret.ErrInvalid) {
			result.State = Refused
		}
		return result
	}
	back, info, err := c.to.Get(ctx, n.Ref)
	switch {
	case err != nil:
		return failed(n.Ref, "target: read back", err)
	case !back.Equal(n.Value) || info.Type != n.Type:
		return Result{n.Ref, Failed, errors.New("target: what was read back is not what was written")}
	}
	return Result{Ref: n.Ref, State: state}
}

// later adds n to the batch, and imports the batch if it is full.
func (c *copying) later(ctx context.Context, n store.New, result *Result) {
	b := &c.batch
	b.mu.Lock()
	defer b.mu.Unlock()
	b.secrets, b.results, b.bytes = append(b.secrets, n), append(b.results, result), b.bytes+n.Value.Len()
	if len(b.secrets) >= batchCount || b.bytes >= batchBytes {
		c.importBatch(ctx)
	}
}

// flush imports what is in the batch.
func (c *copying) flush(ctx context.Context) {
	c.batch.mu.Lock()
	defer c.batch.mu.Unlock()
	c.importBatch(ctx)
}

// importBatch imports the batch, without those of its secrets that the target refuses: an import
// stores all or none. c.batch.mu must be held.
func (c *copying) importBatch(ctx context.Context) {
	secrets, results := c.batch.secrets, c.batch.results
	c.batch.secrets, c.batch.results, c.batch.bytes = nil, nil, 0
	if len(secrets) == 0 {
		return
	}
	err := c.importer.Import(ctx, secrets)
	if refused := refusals(err); refused != nil {
		var rest []store.New
		var restResults []*Result
		for i, n := range secrets {
			if err := refused[n.Ref]; err != nil {
				*results[i] = c.wrote(ctx, n, Created, err)
				continue
			}
			rest, restResults = append(rest, n), append(restResults, results[i])
		}
		secrets, results = rest, restResults
		err = c.importer.Import(ctx, secrets)
	}
	for i, n := range secrets {
		*results[i] = c.wrote(ctx, n, Created, err)
	}
	if err != nil {
		c.stopFor(hopeless(fmt.Errorf("target: %w", err)))
	}
}

// refusals returns the errors of an import that are about one secret each, nil if err is about
// something else, too.
func refusals(err error) map[secret.Ref]error {
	joined, ok := err.(interface{ Unwrap() []error })
	parts := []error{err}
	if ok {
		parts = joined.Unwrap()
	}
	all := map[secret.Ref]error{}
	for _, part := range parts {
		e, ok := errors.AsType[*secret.Error](part)
		if !ok {
			return nil
		}
		all[e.Ref] = e
	}
	return all
}
