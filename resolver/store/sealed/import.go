package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// Import implements [store.Importer] in one transaction of the file: readers see all of secrets or
// none, also after a power cut. The first Import makes the store file, as the first Create does.
func (s *Store) Import(ctx context.Context, secrets []store.New) error {
	return s.importLimited(ctx, secrets, nil)
}

func (s *Store) importLimited(ctx context.Context, secrets []store.New, limit store.Limit) error {
	err := ctx.Err()
	if err == nil && !s.o.Write {
		err = errReading
	}
	if err == nil && len(secrets) > 0 {
		err = s.importAll(ctx, secrets, limit)
	}
	if _, ok := errors.AsType[*secret.Error](err); err == nil || ok {
		return err
	}
	if errors.Is(err, secret.ErrCorrupt) || errors.Is(err, secret.ErrUnavailable) {
		err = s.o.fileError(err)
	}
	return fmt.Errorf("import: %w", err)
}

func (s *Store) importAll(ctx context.Context, secrets []store.New, limit store.Limit) error {
	refused := store.Importable(secrets)
	if err := errors.Join(refused...); err != nil {
		// Nothing will be stored, and no file is made. Report the secrets that exist, too.
		return s.use(ctx, err, func() error {
			return s.view(func(t *tx) error {
				_, err := t.findFree(ctx, secrets, refused)
				return err
			})
		})
	}
	if err := s.make(ctx); err != nil {
		return err
	}
	return s.use(ctx, errClosed, func() error {
		return s.update(ctx, func(t *tx) error {
			free, err := t.findFree(ctx, secrets, refused)
			if err != nil {
				return err
			}
			return t.saveNew(ctx, free, limit)
		})
	})
}

// named is a secret that will be stored, with its name in the index.
type named struct {
	name index.Name
	store.New
}

// findFree returns secrets with their names if none of them exists yet. Otherwise its error joins
// those in refused, which has one for each of secrets or nil, with one for each that exists.
func (t *tx) findFree(ctx context.Context, secrets []store.New, refused []error) ([]named, error) {
	free := make([]named, 0, len(secrets))
	for i, n := range secrets {
		if refused[i] != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := t.find(n.Ref)
		switch {
		case err == nil:
			refused[i] = &secret.Error{Op: "create", Ref: n.Ref, Err: secret.ErrExists}
		case !errors.Is(err, secret.ErrNotFound):
			return nil, err
		}
		free = append(free, named{e.Name, n})
	}
	return free, errors.Join(refused...)
}

// saveNew stores secrets. None of them may exist yet.
func (t *tx) saveNew(ctx context.Context, secrets []named, limit store.Limit) error {
	// In the order of their keys, so that neighbours are written to the same pages.
	slices.SortFunc(secrets, func(a, b named) int { return bytes.Compare(a.name[scopeSize:], b.name[scopeSize:]) })
	now := time.Now().UTC().Round(0)
	changes := make([]change, len(secrets))
	for i, n := range secrets {
		if err := ctx.Err(); err != nil {
			return err
		}
		created, updated := n.Times(now)
		info := store.Info{Ref: n.Ref, Type: n.Type, Created: created, Updated: updated}
		e, err := t.putRecord(n.name, info, n.Value)
		if err != nil {
			return err
		}
		changes[i] = change{ref: n.Ref, entry: e}
	}
	return t.enter(changes, limit)
}
