package index

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// A tree of format 1 by hand: an inner node above two leaves. Package sealed reads a whole store of
// format 1 that an early binary made.
func TestTree1(t *testing.T) {
	t.Parallel()
	leaf := func(names ...Name1) []byte {
		b := []byte{kindLeaf}
		for i, n := range names {
			b = binary.BigEndian.AppendUint64(append(b, n[:]...), uint64(10+i))
		}
		return b
	}
	root := append([]byte{kindInner}, make([]byte, fanOut*8)...)
	root[1+8*3+7], root[1+8*200+7] = 5, 6
	nodes := map[string][]byte{
		"": root, "\x03": leaf(Name1{3, 1}, Name1{3, 2}), "\xc8": leaf(Name1{200}),
	}
	tree := Tree1{Root: 7, Load: func(prefix []byte, version uint64) ([]byte, error) {
		require.Equal(t, map[string]uint64{"": 7, "\x03": 5, "\xc8": 6}[string(prefix)], version)
		return nodes[string(prefix)], nil
	}}
	for name, want := range map[Name1]uint64{{3, 1}: 10, {3, 2}: 11, {200}: 10, {3}: 0, {4}: 0} {
		version, err := tree.Find(name)
		require.NoError(t, err)
		require.Equal(t, want, version)
	}
	walk := func(after *Name1) (names []Name1) {
		require.NoError(t, tree.Walk(after, func(e Entry1) (bool, error) {
			names = append(names, e.Name)
			return len(names) < 2, nil
		}))
		return names
	}
	require.Equal(t, []Name1{{3, 1}, {3, 2}}, walk(nil))
	require.Equal(t, []Name1{{3, 2}, {200}}, walk(&Name1{3, 1}))
	require.Equal(t, []Name1{{200}}, walk(&Name1{3, 2}))
	require.Empty(t, walk(&Name1{200}))
	visited := 0
	require.NoError(t, tree.Visit(func(_ []byte, entries []Entry1, err error) error {
		visited += len(entries)
		return err
	}))
	require.Equal(t, 3, visited)
}

// Bytes that are not a node of format 1 are damage, never absence.
func TestMalformed1(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"nothing":             {},
		"an unknown kind":     {2},
		"half an entry":       append([]byte{kindLeaf}, make([]byte, entrySize1-1)...),
		"a short inner node":  append([]byte{kindInner}, make([]byte, fanOut*8-1)...),
		"children for ever":   append([]byte{kindInner}, bytes.Repeat([]byte{1}, fanOut*8)...),
		"children of a child": append([]byte{kindInner}, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 7}, fanOut)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := Tree1{Root: 1, Load: func([]byte, uint64) ([]byte, error) { return b, nil }}
			_, err := tree.Find(Name1{1})
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.ErrorIs(t, tree.Walk(nil, func(Entry1) (bool, error) { return true, nil }), secret.ErrCorrupt)
			err = tree.Visit(func(_ []byte, _ []Entry1, err error) error { return err })
			require.ErrorIs(t, err, secret.ErrCorrupt)
		})
	}
}
