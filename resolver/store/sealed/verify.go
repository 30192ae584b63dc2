package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"inject/resolver/secret"
	"inject/resolver/store/sealed/index"
	"inject/resolver/store/sealed/page"
)

// maxDamage is how many kinds of damage Verify tells one by one.
const maxDamage = 20

// Verify reads all of the store, as it is when Verify begins: the pages of the file,
// the index and every secret, whose value is opened and dropped. It returns how many
// secrets are whole; what is not is in the error, which wraps
// [secret.ErrCorrupt], up to a number. A store that has no file yet holds none. Others
// read and write meanwhile, as during a Backup.
func (s *Store) Verify(ctx context.Context) (secrets int, err error) {
	s.long.RLock()
	defer s.long.RUnlock()
	err = ctx.Err()
	if err == nil {
		err = s.use(ctx, nil, func() (err error) {
			if secrets, err = s.verify(ctx); err != nil {
				err = fileError(s.o.Path, err)
			}
			return err
		})
	}
	if err != nil {
		return secrets, fmt.Errorf("verify: %w", err)
	}
	return secrets, nil
}

// verify is Verify of the open file. No Rewrap may be under way.
func (s *Store) verify(ctx context.Context) (secrets int, err error) {
	err = s.snapshot(func(t *tx, m page.Meta, _ []byte) error {
		v := verification{tx: t}
		nodes, records := 0, 0
		_, err := page.Survey(ctx, t.file, m, bucketName, func(key []byte) {
			switch key[0] {
			case nodePrefix:
				nodes++
			case recordPrefix:
				records++
			}
		})
		if v.note(err) {
			return err
		}
		if wrapped, err := t.get(wrappedKey); err != nil || !bytes.Equal(wrapped, s.made.wrapped) {
			v.note(damaged("the wrapped data key was changed"))
		}

		err = t.index.Visit(func(prefix []byte, entries []index.Entry, err error) error {
			return v.node(ctx, prefix, entries, err)
		})
		secrets = v.secrets
		switch {
		case err != nil:
			return err
		case v.damage == 0 && (v.nodes != nodes || v.secrets != records):
			v.note(damaged("there are %d nodes and %d records that the index does not know",
				nodes-v.nodes, records-v.secrets))
		}
		return v.err()
	})
	return secrets, err
}

// verification is one Verify under way.
type verification struct {
	*tx

	nodes, secrets int // that are whole
	damage         int
	errs           []error // the first ones
}

// note keeps err if it is damage, and reports whether it is another error.
func (v *verification) note(err error) bool {
	if !errors.Is(err, secret.ErrCorrupt) {
		return err != nil
	}
	if v.damage++; v.damage <= maxDamage {
		v.errs = append(v.errs, err)
	}
	return false
}

func (v *verification) err() error {
	if more := v.damage - len(v.errs); more > 0 {
		return errors.Join(append(v.errs, damaged("and so on, %d times more", more))...)
	}
	return errors.Join(v.errs...)
}

// node looks at a node of the index and at the records of its entries. It returns errors that are
// not damage.
func (v *verification) node(ctx context.Context, prefix []byte, entries []index.Entry, err error) error {
	if err != nil {
		if v.note(fmt.Errorf("the index at %x, and all that it knows below: %w", prefix, err)) {
			return err
		}
		return nil
	}
	v.nodes++
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := v.record(e)
		switch {
		case err == nil:
			v.secrets++
		case v.note(err):
			return err
		}
	}
	return nil
}

// record opens the record of e, and drops its value.
func (v *verification) record(e index.Entry) error {
	info, sealedValue, err := v.loadInfo(e)
	if err != nil {
		return fmt.Errorf("a secret whose name cannot be told (%x): %w", e.Name[:8], err)
	}
	if _, err := unseal(v.keys.record, sealedValue, boundTo(recordKey(e.Name), e.Version, "value")); err != nil {
		return fmt.Errorf("%v: %w", info.Ref, err)
	}
	return nil
}
