package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// Memory returns an empty store in memory, for tests of code that needs a store. It is the simplest
// store that passes the suite. It is also a [store.Limiter].
func Memory() store.Store { return &memory{contents: &contents{secrets: map[secret.Ref]entry{}}} }

type entry struct {
	info  store.Info
	value []byte
}

type memory struct {
	*contents

	limit store.Limit // or nil
}

type contents struct {
	mu      sync.Mutex
	secrets map[secret.Ref]entry
}

// WithLimit implements [store.Limiter].
func (m *memory) WithLimit(limit store.Limit) store.Limiter { return &memory{m.contents, limit} }

// allow asks the limit whether secrets may be stored. m.mu must be held.
func (m *memory) allow(secrets ...store.New) error {
	if m.limit == nil {
		return nil
	}
	now, then := map[secret.Scope]store.Usage{}, map[secret.Scope]store.Usage{}
	add := func(to map[secret.Scope]store.Usage, at secret.Scope, secrets, bytes int) {
		u := to[at]
		to[at] = store.Usage{Secrets: u.Secrets + int64(secrets), Bytes: u.Bytes + int64(bytes)}
	}
	for ref, e := range m.secrets {
		add(now, ref.Scope, 1, len(e.value))
	}
	maps.Copy(then, now)
	for _, n := range secrets {
		if e, ok := m.secrets[n.Ref]; ok {
			add(then, n.Ref.Scope, -1, -len(e.value))
		}
		add(then, n.Ref.Scope, 1, n.Value.Len())
	}
	var errs []error
	for at, u := range then {
		if u.Secrets > now[at].Secrets || u.Bytes > now[at].Bytes {
			errs = append(errs, m.limit(at, now[at], u))
		}
	}
	return errors.Join(errs...)
}

// do calls change with the entry of ref while it holds the lock, unless ctx has ended or ref is
// invalid.
func (m *memory) do(ctx context.Context, op string, ref secret.Ref, change func(entry, bool) error) error {
	err := ctx.Err()
	if err == nil {
		err = ref.Validate()
	}
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		e, ok := m.secrets[ref]
		err = change(e, ok)
	}
	if err != nil {
		return &secret.Error{Op: op, Ref: ref, Err: err}
	}
	return nil
}

func (m *memory) Get(ctx context.Context, ref secret.Ref) (v secret.Value, info store.Info, err error) {
	err = m.do(ctx, "get", ref, func(e entry, ok bool) error {
		if !ok {
			return secret.ErrNotFound
		}
		v, info = secret.NewValue(bytes.Clone(e.value)), e.info
		return nil
	})
	return v, info, err
}

func (m *memory) Describe(ctx context.Context, ref secret.Ref) (info store.Info, err error) {
	err = m.do(ctx, "describe", ref, func(e entry, ok bool) error {
		if !ok {
			return secret.ErrNotFound
		}
		info = e.info
		return nil
	})
	return info, err
}

func (m *memory) Create(ctx context.Context, ref secret.Ref, v secret.Value, t store.Type) error {
	return m.do(ctx, "create", ref, func(_ entry, ok bool) error {
		if ok {
			return secret.ErrExists
		}
		now := time.Now()
		return m.put(store.Info{Ref: ref, Type: t, Created: now, Updated: now}, v)
	})
}

func (m *memory) Update(ctx context.Context, ref secret.Ref, v secret.Value) error {
	return m.do(ctx, "update", ref, func(e entry, ok bool) error {
		if !ok {
			return secret.ErrNotFound
		}
		e.info.Updated = time.Now()
		return m.put(e.info, v)
	})
}

func (m *memory) put(info store.Info, v secret.Value) error {
	if err := store.Writable(info.Ref, v); err != nil {
		return err
	}
	if err := m.allow(store.New{Ref: info.Ref, Value: v}); err != nil {
		return err
	}
	m.secrets[info.Ref] = entry{info, bytes.Clone(v.Reveal())}
	return nil
}

func (m *memory) Delete(ctx context.Context, ref secret.Ref) error {
	return m.do(ctx, "delete", ref, func(_ entry, ok bool) error {
		if !ok {
			return secret.ErrNotFound
		}
		delete(m.secrets, ref)
		return nil
	})
}

func (m *memory) Import(ctx context.Context, secrets []store.New) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	errs := store.Importable(secrets)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, n := range secrets {
		if _, ok := m.secrets[n.Ref]; ok && errs[i] == nil {
			errs[i] = &secret.Error{Op: "create", Ref: n.Ref, Err: secret.ErrExists}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := m.allow(secrets...); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	now := time.Now()
	for _, n := range secrets {
		created, updated := n.Times(now)
		m.secrets[n.Ref] = entry{
			store.Info{Ref: n.Ref, Type: n.Type, Created: created, Updated: updated},
			bytes.Clone(n.Value.Reveal()),
		}
	}
	return nil
}

func (m *memory) List(ctx context.Context, f store.Filter, limit int, token string) ([]store.Info, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	if token != "" && !strings.HasPrefix(token, "u__org__") {
		return nil, "", secret.ErrInvalid
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page []store.Info
	for ref, e := range m.secrets {
		if f.Match(ref) && ref.ID() > token {
			page = append(page, e.info)
		}
	}
	slices.SortFunc(page, func(a, b store.Info) int { return strings.Compare(a.Ref.ID(), b.Ref.ID()) })
	if limit > 0 && len(page) > limit {
		return page[:limit], page[limit-1].Ref.ID(), nil
	}
	return page, "", nil
}
