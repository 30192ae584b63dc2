package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// A name in the index is hashes of the org, of the project in it and of the domain in it, partSize
// bytes each, and the hash of the secret's id. So the secrets of an org, of a project and of a scope
// begin with the same bytes. For those of a domain in all projects, each scope that has secrets has
// a mark: an entry without weight, whose name is hashes of the org, of the domain as a mark and of
// the project.
const (
	partSize  = 8
	scopeSize = 3 * partSize
)

// part returns the hash of what, which is a kind of name inside an org, and the name.
func (k *keys) part(kind, org, name string) []byte {
	h := hmac.New(sha256.New, k.scope)
	_, _ = h.Write([]byte(kind + "\x00" + org + "\x00" + name)) // names have no NUL
	return h.Sum(nil)[:partSize]
}

func (k *keys) orgPart(org string) []byte              { return k.part("org", org, "") }
func (k *keys) projectPart(org, project string) []byte { return k.part("project", org, project) }
func (k *keys) domainPart(org, domain string) []byte   { return k.part("domain", org, domain) }
func (k *keys) markPart(org, domain string) []byte     { return k.part("mark", org, domain) }

// scopeOf returns the beginning of the names of the secrets at s.
func (k *keys) scopeOf(s secret.Scope) []byte {
	n, ok := k.scopes.get(s)
	if !ok {
		copy(n[:], slices.Concat(k.orgPart(s.Org), k.projectPart(s.Org, s.Project), k.domainPart(s.Org, s.Domain)))
		k.scopes.set(s, n)
	}
	return n[:]
}

// scopeHashes remembers results of scopeOf, each of which takes three hashes: tasks that start read
// few scopes, again and again. They depend on the names and the key alone, not on the file.
type scopeHashes struct {
	mu sync.RWMutex
	of map[secret.Scope][scopeSize]byte
}

// maxScopeHashes is how many are remembered, with some 200 bytes each.
const maxScopeHashes = 4096

func (h *scopeHashes) get(s secret.Scope) (n [scopeSize]byte, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	n, ok = h.of[s]
	return n, ok
}

func (h *scopeHashes) set(s secret.Scope, n [scopeSize]byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil || len(h.of) >= maxScopeHashes {
		h.of = map[secret.Scope][scopeSize]byte{}
	}
	h.of[s] = n
}

func (k *keys) nameOf(ref secret.Ref) (n index.Name) {
	h := hmac.New(sha256.New, k.name)
	_, _ = h.Write([]byte(ref.ID()))
	h.Sum(append(n[:0], k.scopeOf(ref.Scope)...))
	return n
}

// mark returns the name of the mark of s.
func (k *keys) mark(s secret.Scope) (n index.Name) {
	copy(n[:], slices.Concat(k.orgPart(s.Org), k.markPart(s.Org, s.Domain), k.projectPart(s.Org, s.Project)))
	return n
}

// A change is what becomes of one secret: the entry that the index shall have, or one without a
// version if it shall have none, and what the secret weighed before.
type change struct {
	ref   secret.Ref
	entry index.Entry
	was   index.Weight
}

// usage is what a scope takes before and after changes.
type usage struct {
	scope     secret.Scope
	now, then store.Usage
}

// enter makes changes in the index. It asks limit, unless that is nil, for each scope that would
// take more than before.
func (t *tx) enter(changes []change, limit store.Limit) error {
	var all []*usage
	by := map[secret.Scope]*usage{}
	entries := make([]index.Entry, 0, len(changes))
	for _, c := range changes {
		u := by[c.ref.Scope]
		if u == nil {
			w, err := t.index.Sum(t.keys.scopeOf(c.ref.Scope))
			if err != nil {
				return err
			}
			u = &usage{scope: c.ref.Scope, now: used(w)}
			u.then = u.now
			by[c.ref.Scope], all = u, append(all, u)
		}
		now, was := used(c.entry.Weight), used(c.was)
		u.then.Secrets += now.Secrets - was.Secrets
		u.then.Bytes += now.Bytes - was.Bytes
		entries = append(entries, c.entry)
	}

	var errs []error
	for _, u := range all {
		if limit != nil && (u.then.Secrets > u.now.Secrets || u.then.Bytes > u.now.Bytes) {
			errs = append(errs, limit(u.scope, u.now, u.then))
		}
		mark := index.Entry{Name: t.keys.mark(u.scope)}
		switch {
		case u.now.Secrets == 0 && u.then.Secrets > 0:
			mark.Version = t.id
		case u.now.Secrets == 0 || u.then.Secrets > 0:
			continue
		}
		entries = append(entries, mark)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	index.Sort(entries)
	return t.index.SetAll(entries)
}

func used(w index.Weight) store.Usage {
	return store.Usage{Secrets: int64(w.Secrets), Bytes: int64(w.Bytes)} //nolint:gosec // of what is in a file
}

// walkFilter calls yield with the entries of all secrets that f may select and whose names come
// after after, a result of nameSize long, until yield returns false.
func (t *tx) walkFilter(f store.Filter, after []byte, yield func(index.Entry) (bool, error)) error {
	switch k := &t.keys; {
	case t.format == 1:
		return t.walk1(after, yield)
	case f.Org == "":
		return t.walkSecrets(nil, after, yield)
	case f.Project == "" && f.Domain == "":
		return t.walkSecrets(k.orgPart(f.Org), after, yield)
	case f.Domain == "":
		return t.walkSecrets(slices.Concat(k.orgPart(f.Org), k.projectPart(f.Org, f.Project)), after, yield)
	case f.Project != "":
		return t.walkSecrets(k.scopeOf(secret.Scope(f)), after, yield)
	default:
		return t.walkDomain(f, after, yield)
	}
}

// walkSecrets walks the entries whose names begin with prefix, without the marks.
func (t *tx) walkSecrets(prefix, after []byte, yield func(index.Entry) (bool, error)) error {
	return t.index.Walk(prefix, after, func(e index.Entry) (bool, error) {
		if e.Secrets == 0 {
			return true, nil
		}
		return yield(e)
	})
}

// walkDomain walks the scopes of f's domain in all projects, in the order of their marks.
func (t *tx) walkDomain(f store.Filter, after []byte, yield func(index.Entry) (bool, error)) error {
	org, domain := t.keys.orgPart(f.Org), t.keys.domainPart(f.Org, f.Domain)
	marks := slices.Concat(org, t.keys.markPart(f.Org, f.Domain))
	var from []byte // the scope in which the page before has ended, which may have more
	if after != nil {
		from = slices.Concat(marks, after[partSize:2*partSize])
	}
	return t.index.Walk(marks, from, func(mark index.Entry) (bool, error) {
		scope, more := slices.Concat(org, mark.Name[2*partSize:scopeSize], domain), true
		err := t.index.Walk(scope, after, func(e index.Entry) (_ bool, err error) {
			more, err = yield(e)
			return more, err
		})
		return more, err
	})
}

// limited is a Store with a limit.
type limited struct {
	*Store

	limit store.Limit
}

var _ store.Limiter = (*Store)(nil)

// WithLimit implements [store.Limiter].
func (s *Store) WithLimit(limit store.Limit) store.Limiter { return &limited{s, limit} }

// Create implements [store.Manager].
func (l *limited) Create(ctx context.Context, ref secret.Ref, v secret.Value, typ store.Type) error {
	return l.create(ctx, ref, v, typ, l.limit)
}

// Update implements [store.Manager].
func (l *limited) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return l.replace(ctx, ref, v, l.limit)
}

// Import implements [store.Importer].
func (l *limited) Import(ctx context.Context, secrets []store.New) error {
	return l.importLimited(ctx, secrets, l.limit)
}

// Usage returns what all secrets of the store take together, which it keeps: none of them is read.
// counted is false for a store of format 1, which has no counts until its first change.
func (s *Store) Usage(ctx context.Context) (u store.Usage, counted bool, err error) {
	counted = true
	err = s.use(ctx, nil, func() error {
		return s.view(func(t *tx) error {
			if t.format == 1 {
				counted = false
				return nil
			}
			w, err := t.index.Sum(nil)
			u = used(w)
			return err
		})
	})
	if err != nil {
		return u, false, s.o.fileError(err)
	}
	return u, counted, nil
}

// Orgs returns the names of the organizations that have secrets, in no order, and limit of them at
// most. It reads one record of each organization; in a store of format 1 it reads all records.
func (s *Store) Orgs(ctx context.Context, limit int) (orgs []string, err error) {
	err = s.use(ctx, nil, func() error {
		return s.view(func(t *tx) error {
			var after []byte
			for more := true; more && len(orgs) < limit; {
				if err := ctx.Err(); err != nil {
					return err
				}
				more = false
				err := t.walkFilter(store.Filter{}, after, func(e index.Entry) (bool, error) {
					info, _, err := t.loadInfo(e)
					if err != nil {
						return false, err
					}
					if !slices.Contains(orgs, info.Ref.Org) {
						orgs = append(orgs, info.Ref.Org)
					}
					if t.format == 1 {
						return len(orgs) < limit, ctx.Err()
					}
					// The next one is behind all names that begin with this org.
					more, after = true, slices.Repeat([]byte{0xff}, index.NameSize)
					copy(after, e.Name[:partSize])
					return false, nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, s.o.fileError(err)
	}
	return orgs, nil
}
