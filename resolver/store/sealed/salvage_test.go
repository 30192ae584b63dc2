package sealed

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
	"inject/resolver/store/storetest"
)

// salvaged returns what Salvage finds, and the damage that it meets.
func salvaged(t *testing.T, s *Store) (found map[secret.Ref]store.Info, damage []error) {
	t.Helper()
	found = map[secret.Ref]store.Info{}
	require.NoError(t, s.Salvage(t.Context(), func(info store.Info, err error) error {
		if err != nil {
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.Zero(t, info)
			damage = append(damage, err)
			return nil
		}
		require.NotContains(t, found, info.Ref)
		found[info.Ref] = info
		return nil
	}))
	return found, damage
}

// Salvage finds what List finds, and of a damaged store, in which List ends, all that is left.
func TestSalvage(t *testing.T) {
	t.Parallel()
	const secrets = 1000
	o, s := newStore(t, 0)
	found, damage := salvaged(t, s)
	require.Empty(t, found, "a store without a file is empty")
	require.Empty(t, damage)
	require.NoError(t, s.Import(t.Context(), someSecrets(t, 0, secrets)))
	require.NoError(t, s.Close())
	o.Write = false
	s = reopen(t, o)
	found, damage = salvaged(t, s)
	require.Empty(t, damage)
	require.Len(t, found, secrets)
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		require.Equal(t, info, found[info.Ref])
	}

	record := func(i int) []byte { return heldUnder(t, s, recordKey(s.keys.nameOf(benchRef(i)))) }
	name, value := record(3), record(4)
	tamper(t, o.Path, func(b []byte) {
		spoil(b, name, 100)                                       // in the info
		spoil(b, value, 2+int(binary.BigEndian.Uint16(value))+30) // in the value
	})
	_, err := allRefs(t, s)
	require.ErrorIs(t, err, secret.ErrCorrupt)
	found, damage = salvaged(t, s)
	require.Len(t, damage, 1)
	require.ErrorContains(t, damage[0], nameless(index.Entry{Name: s.keys.nameOf(benchRef(3))}))
	require.Len(t, found, secrets-1)
	require.NotContains(t, found, benchRef(3))
	require.Contains(t, found, benchRef(4), "its name can be read")
	_, _, err = s.Get(t.Context(), benchRef(4))
	require.ErrorIs(t, err, secret.ErrCorrupt)

	prefix := leafOf(t, s, s.keys.nameOf(benchRef(5)))
	node := heldUnder(t, s, nodeKey(prefix))
	tamper(t, o.Path, func(b []byte) { spoil(b, node, 30) })
	found, damage = salvaged(t, s)
	require.ErrorContains(t, errors.Join(damage...), indexAt(prefix))
	require.NotContains(t, found, benchRef(5))
	require.Greater(t, len(found), secrets/2, "the other leaves are read")
	for ref := range found {
		if ref != benchRef(4) {
			_, _, err := s.Get(t.Context(), ref)
			require.NoError(t, err)
		}
	}

	// An error of yield ends it.
	stop := errors.New("stop")
	calls := 0
	require.ErrorIs(t, s.Salvage(t.Context(), func(store.Info, error) error { calls++; return stop }), stop)
	require.Equal(t, 1, calls)
}

func allRefs(t *testing.T, s *Store) (refs []secret.Ref, err error) {
	t.Helper()
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		if err != nil {
			return refs, err
		}
		refs = append(refs, info.Ref)
	}
	return refs, nil
}

// A secret that is copied from another store keeps its times.
func TestImportTimes(t *testing.T) {
	t.Parallel()
	o, s := newStore(t, 0)
	created := time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)
	updated := created.Add(time.Hour)
	began := time.Now()
	all := someSecrets(t, 0, 3)
	all[0].Created, all[0].Updated = created.In(time.FixedZone("east", 3600)), updated
	all[1].Updated = updated
	require.NoError(t, s.Import(t.Context(), all))
	require.NoError(t, s.Close())
	s = reopen(t, o)
	times := func(i int) (time.Time, time.Time) {
		info, err := s.Describe(t.Context(), all[i].Ref)
		require.NoError(t, err)
		return info.Created, info.Updated
	}
	c, u := times(0)
	require.True(t, c.Equal(created) && u.Equal(updated), "%v %v", c, u)
	c, u = times(1)
	require.True(t, c.Equal(updated) && u.Equal(updated), "%v %v", c, u)
	c, u = times(2)
	require.Equal(t, c, u)
	require.False(t, c.Before(began.Round(0)))

	require.NoError(t, s.Update(t.Context(), all[0].Ref, secret.NewValue(storetest.Value(t, 9))))
	c, u = times(0)
	require.True(t, c.Equal(created))
	require.False(t, u.Before(began.Round(0)))
}
