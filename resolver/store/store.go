// Package store defines what a store of secrets is: the interfaces that backends implement and
// that consumers ask for. In a store each secret is at exactly one scope. Looking it up at one
// scope after the other is the work of package resolver. The backends are in folders below this
// one, and every backend passes the tests in storetest.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"inject/resolver/secret"
)

// MaxValue is the length in bytes of the longest value that a store keeps: the limit of a
// Kubernetes Secret.
const MaxValue = 1 << 20

// A Type is the purpose of a secret. The numbers are those of flyteidl2.secret.SecretType.
type Type int

// The types.
const (
	Regular   Type = 0
	ImagePull Type = 1 // credentials of a registry, as a Docker config in JSON
)

// String returns the name of t on the command line: regular or image_pull.
func (t Type) String() string {
	switch t {
	case Regular:
		return "regular"
	case ImagePull:
		return "image_pull"
	}
	return fmt.Sprintf("Type(%d)", int(t))
}

// Info is everything about a secret except its value. It may be shown.
type Info struct {
	Ref     secret.Ref
	Type    Type
	Created time.Time
	Updated time.Time
}

// A Reader returns values. It is safe for concurrent use.
type Reader interface {
	// Get returns the secret at exactly ref. Errors wrap one of the sentinels of package secret. A
	// store returns [secret.ErrNotFound] only if it knows that the secret does not exist, because
	// the caller then tries a wider scope. An outage, a denial and damage are other errors.
	Get(ctx context.Context, ref secret.Ref) (secret.Value, Info, error)
}

// A Remote is a Reader that says whether its reads are round trips to another machine. The ladder
// asks such a store for a secret at all scopes at the same time, and any other store at one scope
// after the other: a file answers before a goroutine begins. Other processes may change such a store,
// so a request shares only reads that begin after it (package flight).
//
// A store whose reads are round trips implements it as one line that returns true, and does the
// following in Get:
//
//   - It takes many calls at the same time, 128 from injectd, and sends each at once: without a limit
//     of rates in its client and without waiting for a connection to be free.
//   - It returns soon after ctx has ended, because the ladder waits for the reads that it has given up.
//   - It does not log an error. Those of wider scopes are dropped if a narrower one decides.
//
// A store in front of another one implements it with [IsRemote] of that one. Otherwise the ladder asks
// rung after rung again, which takes four round trips in place of one.
type Remote interface {
	Reader
	// Remote reports whether each Get is a round trip. It returns the same each time.
	Remote() bool
}

// IsRemote reports whether the reads of r are round trips: whether it is a [Remote] that says so.
func IsRemote(r Reader) bool {
	remote, ok := r.(Remote)
	return ok && remote.Remote()
}

// A Lister says which secrets exist, without values. It is safe for concurrent use.
type Lister interface {
	// Describe returns what Get returns, without the value.
	Describe(ctx context.Context, ref secret.Ref) (Info, error)
	// List returns a page of the secrets that f selects, in an order that the store chooses. A
	// page has at most limit secrets; if limit < 1 the store chooses. It may have fewer, even
	// none, although more follow. next is the token of the next page, "" after the last page.
	// Tokens stay valid while secrets change: a secret that exists during the whole listing is
	// listed exactly once. A token that the store did not issue is [secret.ErrInvalid].
	List(ctx context.Context, f Filter, limit int, token string) (page []Info, next string, err error)
}

// A Manager changes secrets. It is safe for concurrent use. If a method returns nil, the change is
// durable. If it returns an error that wraps one of the sentinels, the change was not made; but
// after [secret.ErrUnavailable] it may have been made.
type Manager interface {
	Lister
	// Create stores a new secret. If there is one at ref, it returns [secret.ErrExists].
	Create(ctx context.Context, ref secret.Ref, v secret.Value, t Type) error
	// Update replaces the value of a secret and keeps its type. If there is none at ref, it returns
	// [secret.ErrNotFound].
	Update(ctx context.Context, ref secret.Ref, v secret.Value) error
	// Delete removes a secret. If there is none at ref, it returns [secret.ErrNotFound].
	Delete(ctx context.Context, ref secret.Ref) error
}

// A Store can be read and changed.
type Store interface {
	Reader
	Manager
}

// An Importer is a Manager that can create many secrets in one change. It is safe for concurrent
// use.
type Importer interface {
	Manager
	// Import stores all of secrets or none. If some cannot be created, its error joins a
	// [*secret.Error] with the Op "create" for each of these; two secrets at one ref are
	// [secret.ErrInvalid]. Otherwise its error is the reason that nothing was stored. The rules of
	// Manager for one change hold for all of secrets together.
	Import(ctx context.Context, secrets []New) error
}

// Usage is what the secrets at one scope take.
type Usage struct {
	Secrets int64 // their number
	Bytes   int64 // of all values together
}

// A Limit returns an error if the secrets at a scope may not take as much as then. now is what they
// take before the change, which is less in one or both. The store does not call it for a change that
// takes no more. It must not use the store.
type Limit func(at secret.Scope, now, then Usage) error

// A Limiter is a store that counts what the secrets at each scope take, and can be limited. It is
// safe for concurrent use.
type Limiter interface {
	Reader
	Importer
	// WithLimit returns the same store, with a limit on what is created, updated and imported
	// through the returned value. The store asks it as part of the change, so that changes at the
	// same time cannot exceed it together. If it refuses, the store changes nothing and returns its
	// error.
	WithLimit(limit Limit) Limiter
}

// New is a secret that will be created.
type New struct {
	Ref   secret.Ref
	Value secret.Value
	Type  Type
	// Copied is set for a secret that exists in another store. Its name need not be one that could be
	// created anew, and Created and Updated are its times. Otherwise they are zero, which stands for the
	// time of the change.
	Copied           bool
	Created, Updated time.Time
}

// Times returns Created and Updated of a secret that is stored at now.
func (n *New) Times(now time.Time) (created, updated time.Time) {
	updated = n.Updated
	if updated.IsZero() {
		updated = now
	}
	created = n.Created
	if created.IsZero() {
		created = updated
	}
	return created, updated
}

// Importable returns an error for each of secrets that no store can import, and nil for the others:
// the error of [Creatable], or of [Writable] for one that is copied, or [secret.ErrInvalid] for a
// secret at the ref of an earlier one. Every Import calls it first.
func Importable(secrets []New) []error {
	errs := make([]error, len(secrets))
	seen := make(map[secret.Ref]bool, len(secrets))
	for i, n := range secrets {
		allowed := Creatable
		if n.Copied {
			allowed = Writable
		}
		err := allowed(n.Ref, n.Value)
		if err == nil && seen[n.Ref] {
			err = fmt.Errorf("%w: it is listed twice", secret.ErrInvalid)
		}
		seen[n.Ref] = true
		if err != nil {
			errs[i] = &secret.Error{Op: "create", Ref: n.Ref, Err: err}
		}
	}
	return errs
}

// A Filter selects secrets by the scope that they are stored at. An empty field selects
// everything, so {Domain: "d"} selects the secrets of the domain and those of every project in it,
// as Flyte's ListSecrets does.
type Filter struct{ Org, Domain, Project string }

// Match reports whether f selects r.
func (f Filter) Match(r secret.Ref) bool {
	return (f.Org == "" || f.Org == r.Org) &&
		(f.Domain == "" || f.Domain == r.Domain) &&
		(f.Project == "" || f.Project == r.Project)
}

// All returns an iterator over every secret that f selects. It reads page by page and ends after
// the first error.
func All(ctx context.Context, l Lister, f Filter) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for token := ""; ; {
			page, next, err := l.List(ctx, f, 0, token)
			if err != nil {
				yield(Info{}, err)
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
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

// Creatable is [Writable] for a secret that is new: its key must be a [secret.ValidKey], and its scope
// plain, which [secret.PlainName] describes. Every Create calls it first.
func Creatable(ref secret.Ref, v secret.Value) error {
	if err := Writable(ref, v); err != nil {
		return err
	}
	return errors.Join(secret.ValidKey(ref.Key), ref.Plain())
}

// Writable returns nil if ref is valid and v has at most [MaxValue] bytes, and otherwise an error
// that wraps [secret.ErrInvalid]. Every Update calls it first.
func Writable(ref secret.Ref, v secret.Value) error {
	if err := ref.Validate(); err != nil {
		return err
	}
	if n := v.Len(); n > MaxValue {
		return fmt.Errorf("%w: the value is %d bytes long (at most %d)", secret.ErrInvalid, n, MaxValue)
	}
	return nil
}
