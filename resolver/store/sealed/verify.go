package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"inject/resolver/secret"
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
		err = v.walk(ctx, nil, t.index.root)
		secrets = v.secrets
		switch {
		case err != nil:
			return err
		case v.damage == 0 && (v.nodes != nodes || v.secrets != records):
			v.note(damaged("there are %d nodes and %d records that the index does not know", nodes-v.nodes, records-v.secrets))
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

// walk looks at the node at prefix and everything below it. It returns errors that
// are not damage.
func (v *verification) walk(ctx context.Context, prefix []byte, version uint64) error {
	n, err := v.index.loadNode(prefix, version)
	if err != nil {
		if v.note(fmt.Errorf("the index at %x, and all that it knows below: %w", prefix, err)) {
			return err
		}
		return nil
	}
	v.nodes++
	for _, e := range n.leaf {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, sealedValue, err := v.loadInfo(e)
		if err != nil {
			err = fmt.Errorf("a secret whose name cannot be told (%x): %w", e.name[:8], err)
		} else if _, err = unseal(v.keys.record, sealedValue, boundTo(recordKey(e.name), e.version, "value")); err != nil {
			err = fmt.Errorf("%v: %w", info.Ref, err)
		}
		switch {
		case err == nil:
			v.secrets++
		case v.note(err):
			return err
		}
	}
	if len(n.children) > 0 && len(prefix) == nameSize-1 {
		v.note(damaged("the index is too deep"))
		return nil
	}
	for b, version := range n.children {
		if version == 0 {
			continue
		}
		if err := v.walk(ctx, append(slices.Clone(prefix), byte(b)), version); err != nil {
			return err
		}
	}
	return nil
}
