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
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// parallel is how many secrets are looked up at the same time. At a store that is remote each has as
// many reads under way as there are rungs: 64 together.
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
//
// If the reads of the store are round trips (see [store.Remote]), a secret is asked for at all scopes
// at the same time, and what they answer is looked at in the order of the ladder. So the result is
// that of asking one scope after the other: a wider scope decides only if all narrower ones have
// answered "not found". As soon as one decides, the reads at wider ones are given up, and their
// results are dropped. One thing differs: while a secret is moved to a wider scope, created there and
// then deleted, a climb may ask the wider scope before the first change and the narrower one after
// the second. Then it finds neither, and goes on to the scopes that are still wider.
type Ladder struct {
	reader store.Reader
	bounds Bounds // nil for Over
	remote bool
}

// Bounds are those of a server on what it holds for all its callers. Both methods are called by
// several goroutines at the same time.
type Bounds interface {
	// Enter waits until the climb of a key may have n reads under way and hold their values. They
	// are made with the returned context, and leave is called when the climb holds no value any
	// more but one that Keep has counted. Reads that it has given up may be under way even then. An
	// error is that of the climb. It is not called if the store is not a [store.Remote].
	Enter(ctx context.Context, n int) (_ context.Context, leave func(), err error)
	// Keep counts the value that decides a climb. An error takes its place.
	Keep(ctx context.Context, v secret.Value) error
}

// Over returns the ladder over r. It is safe for concurrent use if r is.
func Over(r store.Reader) *Ladder { return &Ladder{reader: r, remote: store.IsRemote(r)} }

// OverShared is Over for a server. Unless the store is remote, the keys of a list that has more of
// them than are looked up at the same time are looked up one after the other: otherwise long lists
// would take the processors from the short lists of other callers. A remote store leaves them idle.
func OverShared(r store.Reader, b Bounds) *Ladder {
	return &Ladder{reader: r, bounds: b, remote: store.IsRemote(r)}
}

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
	var keys []string // in the order declared, so that the same ones come first each time
	for _, d := range declared {
		if byKey[d.Key] == nil {
			byKey[d.Key] = &Climb{}
			keys = append(keys, d.Key)
		}
	}
	var g errgroup.Group
	g.SetLimit(parallel)
	if l.bounds != nil && !l.remote && len(keys) > parallel {
		g.SetLimit(1)
	}
	for _, key := range keys {
		if len(keys) == 1 { // one key is not worth a goroutine, which often starts a thread
			l.climb(ctx, task, key, byKey[key])
			break
		}
		g.Go(func() error {
			l.climb(ctx, task, key, byKey[key])
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
	rungs := task.Ladder()
	at := func(i int) answer { return l.ask(ctx, rungs[i], key) }
	if l.remote {
		var end func()
		at, end = l.askAll(ctx, rungs, key)
		defer end()
	}
	for i, scope := range rungs {
		a := at(i)
		if a.err == nil && l.bounds != nil {
			a.err = l.bounds.Keep(ctx, a.value)
		}
		c.Tried = append(c.Tried, Rung{scope, a.err})
		switch {
		case a.err == nil:
			c.Value, c.Info, c.Err = a.value, a.info, nil
			return
		case !errors.Is(a.err, secret.ErrNotFound):
			c.Err = unwrapRef(ctx, a.err)
			return
		}
		c.Err = secret.ErrNotFound
	}
}

// An answer is what the store has for a key at one scope.
type answer struct {
	value secret.Value
	info  store.Info
	err   error
}

func (l *Ladder) ask(ctx context.Context, at secret.Scope, key string) (a answer) {
	a.value, a.info, a.err = l.reader.Get(ctx, secret.Ref{Scope: at, Key: key})
	return a
}

// askAll asks for key at all rungs at the same time. at returns the answer of a rung when it is there,
// and may be called once for each. end gives up the reads that are still under way, and returns when
// they have ended.
func (l *Ladder) askAll(
	ctx context.Context, rungs []secret.Scope, key string,
) (at func(rung int) answer, end func()) {
	leave := func() {}
	if l.bounds != nil {
		entered, left, err := l.bounds.Enter(ctx, len(rungs))
		if err != nil {
			return func(int) answer { return answer{err: err} }, leave
		}
		ctx, leave = entered, left
	}
	ctx, giveUp := context.WithCancel(ctx)
	answers, there := make([]answer, len(rungs)), make([]chan struct{}, len(rungs))
	var wider sync.WaitGroup
	for i := 1; i < len(rungs); i++ {
		there[i] = make(chan struct{})
		wider.Go(func() {
			defer close(there[i])
			answers[i] = l.ask(ctx, rungs[i], key)
		})
	}
	at = func(rung int) answer {
		if rung == 0 { // mostly it has to be waited for, so it needs no goroutine
			return l.ask(ctx, rungs[0], key)
		}
		<-there[rung]
		return answers[rung]
	}
	return at, func() {
		giveUp()
		wider.Wait()
		leave()
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
