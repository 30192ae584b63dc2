// Package resolver turns the secrets that a task declares into values: it looks up each
// one at the scopes of the task's ladder, and returns all values or every failure. It
// reads from any store and changes none. Where the declared list comes from and where
// the values go is the business of other packages.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// parallel is how many secrets are looked up at the same time.
const parallel = 16

// helpTime bounds the search for other scopes that have a missing secret.
const helpTime = 2 * time.Second

// A Resolver turns a declared list into values for a task at a scope.
type Resolver interface {
	// Resolve returns one Resolved for each declaration, in the order declared, or
	// an [*Error] that names every declaration that failed, or another error if
	// nothing could be looked up. The deadline of ctx is for all of them together.
	Resolve(ctx context.Context, task secret.Scope, declared []secret.Declaration) ([]Resolved, error)
}

// Resolved is a declaration with the secret that answers it.
type Resolved struct {
	Declaration secret.Declaration
	Value       secret.Value
	Info        store.Info // Info.Ref.Scope is the rung where the secret was found
}

// A Rung is one step of a climb.
type Rung struct {
	Scope secret.Scope
	// Err is nil if the secret was found at Scope, [secret.ErrNotFound] if there is
	// none, and another error if the climb failed there.
	Err error
}

// A Climb says how one declaration was resolved, or why it was not.
type Climb struct {
	Resolved
	Tried []Rung // narrowest first; the last one decided
	Err   error  // why there is no value; nil if there is one
	// Elsewhere are scopes outside the task's ladder that have the key. It is filled
	// in only for a secret that was not found, and only by a store that can list.
	Elsewhere []secret.Scope
}

// An Error holds every failed climb of a declared list.
type Error struct{ Failed []Climb }

// Error returns a line for each failure.
func (e *Error) Error() string {
	lines := make([]string, len(e.Failed))
	for i, c := range e.Failed {
		lines[i] = c.Declaration.Key + ": " + c.Err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the causes.
func (e *Error) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, c := range e.Failed {
		errs[i] = c.Err
	}
	return errs
}

// A Ladder is a Resolver over a store in this process.
type Ladder struct {
	reader store.Reader
	shared bool
}

// Over returns the ladder over r. It is safe for concurrent use if r is.
func Over(r store.Reader) *Ladder { return &Ladder{reader: r} }

// OverShared is Over for a server. The keys of a list that has more of them than are looked up at
// the same time are looked up one after the other: otherwise long lists would take the processors
// from the short lists of other callers.
func OverShared(r store.Reader) *Ladder { return &Ladder{reader: r, shared: true} }

// Resolve implements [Resolver].
func (l *Ladder) Resolve(ctx context.Context, task secret.Scope, declared []secret.Declaration) ([]Resolved, error) {
	climbs, err := l.Climb(ctx, task, declared)
	if err != nil {
		return nil, err
	}
	return Values(climbs)
}

// Values returns the secrets that the climbs found, or an [*Error] of those that failed.
func Values(climbs []Climb) ([]Resolved, error) {
	var failed []Climb
	resolved := make([]Resolved, len(climbs))
	for i, c := range climbs {
		resolved[i] = c.Resolved
		if c.Err != nil {
			failed = append(failed, c)
		}
	}
	if failed != nil {
		return nil, &Error{failed}
	}
	return resolved, nil
}

// Climb returns how each declaration is resolved, in the order declared,
// failures included. It returns an error only for an invalid scope. A key that is
// declared several times is looked up once.
func (l *Ladder) Climb(ctx context.Context, task secret.Scope, declared []secret.Declaration) ([]Climb, error) {
	if err := task.Validate(); err != nil {
		return nil, err
	}
	byKey := map[string]*Climb{}
	for _, d := range declared {
		byKey[d.Key] = &Climb{}
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	if l.shared && len(byKey) > parallel {
		g.SetLimit(1)
	}
	for key, c := range byKey {
		if len(byKey) == 1 { // one key is not worth a goroutine, which often starts a thread
			l.climb(ctx, task, key, c)
			break
		}
		g.Go(func() error {
			l.climb(ctx, task, key, c)
			return nil
		})
	}
	_ = g.Wait() // climbs keep their own errors
	l.findElsewhere(ctx, task.Org, byKey)

	climbs := make([]Climb, len(declared))
	for i, d := range declared {
		climbs[i] = *byKey[d.Key]
		climbs[i].Declaration = d
		if d.Version != "" && climbs[i].Err == nil {
			climbs[i].Resolved = Resolved{Declaration: d}
			climbs[i].Err = fmt.Errorf(
				"%w: version %.40q was requested, but the store keeps no versions", secret.ErrInvalid,
				d.Version,
			)
		}
	}
	return climbs, nil
}

// climb looks key up from rung to rung. It goes on only after "not found": an outage,
// a denial or damage at a narrow rung must not become the wider scope's value.
func (l *Ladder) climb(ctx context.Context, task secret.Scope, key string, c *Climb) {
	for _, scope := range task.Ladder() {
		v, info, err := l.reader.Get(ctx, secret.Ref{Scope: scope, Key: key})
		c.Tried = append(c.Tried, Rung{scope, err})
		switch {
		case err == nil:
			c.Value, c.Info, c.Err = v, info, nil
			return
		case !errors.Is(err, secret.ErrNotFound):
			c.Err = unwrapRef(ctx, err)
			return
		}
		c.Err = secret.ErrNotFound
	}
}

// unwrapRef returns err without the name of the secret, which the Climb names already.
// If the deadline was the cause, the error says so.
func unwrapRef(ctx context.Context, err error) error {
	scope := ""
	if e, ok := errors.AsType[*secret.Error](err); ok {
		err, scope = e.Err, " at "+e.Ref.Scope.String()
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w%s: no answer in time: %w", secret.ErrUnavailable, scope, context.Cause(ctx))
	}
	if scope != "" {
		return fmt.Errorf("lookup%s: %w", scope, err)
	}
	return err
}

// findElsewhere lists the org's secrets to find other scopes of the missing keys. That
// only improves a hint, so errors are ignored.
func (l *Ladder) findElsewhere(ctx context.Context, org string, climbs map[string]*Climb) {
	missing := false
	for _, c := range climbs {
		missing = missing || errors.Is(c.Err, secret.ErrNotFound)
	}
	lister, ok := l.reader.(store.Lister)
	if !ok || !missing {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, helpTime)
	defer cancel()
	for info, err := range store.All(ctx, lister, store.Filter{Org: org}) {
		if err != nil {
			return
		}
		if c := climbs[info.Ref.Key]; c != nil && errors.Is(c.Err, secret.ErrNotFound) {
			c.Elsewhere = append(c.Elsewhere, info.Ref.Scope)
		}
	}
}
