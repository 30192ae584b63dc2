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

// maxDamage is how many damaged parts Verify names. It only counts the others.
const maxDamage = 20

// Verify reads the whole store as it is when Verify begins: the pages of the file, the index and
// every secret, whose value is decrypted and dropped. It returns the number of secrets that are
// whole. If others are not, or the file is damaged elsewhere, its error wraps [secret.ErrCorrupt]
// and names the first damaged parts. A store without a file has no secrets and is whole. Reads and
// changes go on meanwhile, as during a Backup.
func (s *Store) Verify(ctx context.Context) (secrets int, err error) {
	s.long.RLock()
	defer s.long.RUnlock()
	err = ctx.Err()
	if err == nil {
		err = s.use(ctx, nil, func() (err error) {
			if secrets, err = s.verify(ctx); err != nil {
				err = s.o.fileError(err)
			}
			return err
		})
	}
	if err != nil {
		return secrets, fmt.Errorf("verify: %w", err)
	}
	return secrets, nil
}

// verify does Verify's work while the file is open. No Rewrap may run meanwhile.
func (s *Store) verify(ctx context.Context) (secrets int, err error) {
	err = s.snapshot(func(t *tx, m page.Meta, _ []byte) error {
		v := verification{tx: t}
		nodes, records := 0, 0
		_, err := page.Survey(ctx, t.file, m, bucketName, func(key []byte) {
			switch {
			case key[0] == node1Prefix, key[0] == nodePrefix && t.format > 1: // see rewrite
				nodes++
			case key[0] == recordPrefix:
				records++
			}
		})
		if v.note(err) {
			return err
		}
		if wrapped, err := t.get(wrappedKey); err != nil || !bytes.Equal(wrapped, s.made.wrapped) {
			v.note(damaged("the wrapped data key was changed"))
		}

		err = t.visit(func(prefix []byte, entries []index.Entry, err error) error {
			return v.node(ctx, prefix, entries, err)
		})
		secrets = v.secrets
		switch {
		case err != nil:
			return err
		case v.damage == 0 && (v.nodes != nodes || v.secrets != records):
			v.note(damaged("there are %d nodes and %d records that the index does not know",
				nodes-v.nodes, records-v.secrets))
		case v.damage == 0 && v.marks != v.scopes && t.format > 1:
			v.note(damaged("the index knows the domains of %d scopes, but there are %d", v.marks, v.scopes))
		}
		return v.err()
	})
	return secrets, err
}

// verification is one Verify under way.
type verification struct {
	*tx

	nodes, secrets int     // the number of each that are whole
	scopes, marks  int     // the number of scopes with secrets, and of those that mark knows
	last           []byte  // the scope of the last secret
	damage         int     // the number of damaged parts
	errs           []error // of the first maxDamage of them
}

// note records err if it is damage. It reports whether err is another error, which ends Verify.
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

// node verifies the records of one node of the index, and notes what is damaged. err is why the
// node itself could not be read, or nil. It returns only errors that are not damage.
func (v *verification) node(ctx context.Context, prefix []byte, entries []index.Entry, err error) error {
	if err != nil {
		if v.note(fmt.Errorf("%s: %w", indexAt(prefix), err)) {
			return err
		}
		return nil
	}
	v.nodes++
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if v.format > 1 && e.Secrets == 0 {
			v.marks++
			continue
		}
		if v.format > 1 && !bytes.HasPrefix(e.Name[:], v.last) || v.last == nil {
			v.scopes, v.last = v.scopes+1, bytes.Clone(e.Name[:scopeSize])
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

// record decrypts the record of e and drops its value.
func (v *verification) record(e index.Entry) error {
	info, sealedValue, err := v.loadInfo(e)
	if err != nil {
		return fmt.Errorf("%s: %w", nameless(e), err)
	}
	value, err := unseal(v.keys.record, nil, sealedValue, boundTo(recordKey(e.Name), e.Version, "value"))
	if err == nil && v.format > 1 && (v.keys.nameOf(info.Ref) != e.Name || weightOf(len(value)) != e.Weight) {
		err = damaged("the index has another scope or length for it")
	}
	if err != nil {
		return fmt.Errorf("%v: %w", info.Ref, err)
	}
	return nil
}
