package sealed

import (
	"context"
	"errors"
	"fmt"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// Salvage calls yield for each secret, and goes on past damage: for a part of the index or a name
// that cannot be read, yield gets an error in place of a secret, which wraps [secret.ErrCorrupt].
// That the name can be read does not mean that the value can. A List ends at the first such part
// instead, because a caller that takes it for complete would miss secrets.
//
// Salvage reads the store as it is when it begins. It returns the first error of yield, which may
// read the store, and must neither change nor close it.
func (s *Store) Salvage(ctx context.Context, yield func(store.Info, error) error) error {
	return s.use(ctx, nil, func() error {
		return s.view(func(t *tx) error {
			return t.visit(func(prefix []byte, entries []index.Entry, err error) error {
				if err != nil {
					return skip(yield, err, indexAt(prefix))
				}
				for _, e := range entries {
					if err := ctx.Err(); err != nil {
						return err
					}
					if t.format > 1 && e.Secrets == 0 {
						continue // the mark of a scope
					}
					info, _, err := t.loadInfo(e)
					if err != nil {
						err = skip(yield, err, nameless(e))
					} else {
						err = yield(info, nil)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	})
}

// skip yields err, which is why the part of the file cannot be read. It returns an err that is not
// damage.
func skip(yield func(store.Info, error) error, err error, part string) error {
	if !errors.Is(err, secret.ErrCorrupt) {
		return err
	}
	return yield(store.Info{}, fmt.Errorf("%s: %w", part, err))
}

// indexAt names a node of the index that cannot be read.
func indexAt(prefix []byte) string {
	if len(prefix) == 0 {
		return "the root of the index, with all secrets"
	}
	return fmt.Sprintf("the index at %x, with all secrets below it", prefix)
}

// nameless names a record whose name cannot be read.
func nameless(e index.Entry) string {
	return fmt.Sprintf("a secret whose name cannot be read (%x)", e.Name[scopeSize:][:8])
}
