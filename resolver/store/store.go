// Package store says what keeps secrets: the interfaces that every backend
// implements and every consumer asks for. A store knows secrets at exactly one
// scope each; climbing from scope to scope is the resolver's. The backends are
// in folders below this one, and storetest is the suite that each one passes.
package store

import (
	"context"
	"fmt"
	"iter"
	"time"

	"inject/resolver/secret"
)

// MaxValue is the longest value that a store keeps, in bytes: what one
// Kubernetes object can hold.
const MaxValue = 1 << 20

// A Type is what a secret is for. The numbers are those of
// flyteidl2.secret.SecretType.
type Type int

// The types.
const (
	Regular   Type = 0
	ImagePull Type = 1 // a Docker config JSON
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

// Info is all that may be told about a secret without its value.
type Info struct {
	Ref     secret.Ref
	Type    Type
	Created time.Time
	Updated time.Time
}

// A Reader gets values. Safe for concurrent use.
type Reader interface {
	// Get returns the secret at exactly ref. Errors wrap one of the sentinels of
	// package secret; [secret.ErrNotFound] is returned only when the store knows
	// that there is no such secret: an outage, a denial and damage are other errors.
	Get(ctx context.Context, ref secret.Ref) (secret.Value, Info, error)
}

// A Lister tells which secrets there are, never a value. Safe for concurrent use.
type Lister interface {
	// Describe returns what Get does without the value.
	Describe(ctx context.Context, ref secret.Ref) (Info, error)
	// List returns a page of the secrets that f selects, in the store's own order:
	// at most limit of them (the store's choice if limit < 1), and the token with
	// which the next page begins, "" after the last. A page may be short, even
	// empty, while there are more. Tokens are opaque and survive writes: what is
	// there throughout a listing is listed exactly once. A token that the store
	// did not give is [secret.ErrInvalid].
	List(ctx context.Context, f Filter, limit int, token string) (page []Info, next string, err error)
}

// A Manager changes which secrets there are. Safe for concurrent use. A change
// has been made durable when its method returns nil, and has not been made when
// it returns one of the sentinels other than [secret.ErrUnavailable].
type Manager interface {
	Lister
	// Create stores a secret where there is none; [secret.ErrExists] otherwise.
	Create(ctx context.Context, ref secret.Ref, v secret.Value, t Type) error
	// Update replaces the value of a secret and keeps its type; [secret.ErrNotFound]
	// when there is none.
	Update(ctx context.Context, ref secret.Ref, v secret.Value) error
	// Delete removes a secret; [secret.ErrNotFound] when there is none.
	Delete(ctx context.Context, ref secret.Ref) error
}

// A Store keeps secrets: it can be read and managed.
type Store interface {
	Reader
	Manager
}

// An Importer is a Manager that also creates many secrets at once. Safe for
// concurrent use.
type Importer interface {
	Manager
	// Import stores all of secrets, or none of them: then its error joins a
	// [*secret.Error] with the Op create for each that is in the way, or tells why
	// nothing could be stored. Two at one ref are [secret.ErrInvalid]. What a Manager
	// promises of a change holds for all of them together.
	Import(ctx context.Context, secrets []New) error
}

// New is a secret that is to be created.
type New struct {
	Ref   secret.Ref
	Value secret.Value
	Type  Type
}

// Importable returns for each of secrets why no store could import it, nil where
// one could: what [Writable] says, and [secret.ErrInvalid] for one at the ref of
// an earlier one. Every Import begins with it.
func Importable(secrets []New) []error {
	errs := make([]error, len(secrets))
	seen := make(map[secret.Ref]bool, len(secrets))
	for i, n := range secrets {
		err := Writable(n.Ref, n.Value)
		if err == nil && seen[n.Ref] {
			err = fmt.Errorf("%w: it is there twice", secret.ErrInvalid)
		}
		seen[n.Ref] = true
		if err != nil {
			errs[i] = &secret.Error{Op: "create", Ref: n.Ref, Err: err}
		}
	}
	return errs
}

// A Filter selects secrets by the scope they are stored at. Empty fields select
// everything, so {Domain: "d"} selects the domain's secrets and those of every
// project in it, as Flyte's ListSecrets does.
type Filter struct{ Org, Domain, Project string }

// Match reports whether f selects r.
func (f Filter) Match(r secret.Ref) bool {
	return (f.Org == "" || f.Org == r.Org) &&
		(f.Domain == "" || f.Domain == r.Domain) &&
		(f.Project == "" || f.Project == r.Project)
}

// All lists every secret that f selects, page by page. It ends after the first
// error.
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

// Writable returns nil if v may be stored at ref: a valid ref and at most
// [MaxValue] bytes. Every Create and Update begins with it.
func Writable(ref secret.Ref, v secret.Value) error {
	if err := ref.Validate(); err != nil {
		return err
	}
	if n := v.Len(); n > MaxValue {
		return fmt.Errorf("%w: the value is %d bytes long (at most %d)", secret.ErrInvalid, n, MaxValue)
	}
	return nil
}
