package index

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

// disk keeps nodes in memory. It returns a node only as the version that was saved.
type disk struct {
	nodes map[string][]byte
	saved map[string]uint64
}

func newDisk() *disk {
	d := &disk{nodes: map[string][]byte{"": Empty()}, saved: map[string]uint64{"": 1}}
	return d
}

// begin returns the tree in the transaction after root.
func (d *disk) begin(root uint64) *Tree {
	t := &Tree{Root: root, Now: root + 1}
	t.Load = func(prefix []byte, version uint64) ([]byte, error) {
		n, ok := d.nodes[string(prefix)]
		if !ok || d.saved[string(prefix)] != version {
			return nil, fmt.Errorf("the node at %x was not saved as version %d", prefix, version)
		}
		return n, nil
	}
	t.Save = func(prefix, n []byte) error {
		if n == nil {
			delete(d.nodes, string(prefix))
			return nil
		}
		d.nodes[string(prefix)], d.saved[string(prefix)] = n, t.Now
		return nil
	}
	return t
}

// someName returns a name that shares much with others, as names below one prefix do.
func someName() (n Name) {
	for i := range n {
		n[i] = byte(rand.IntN(2))
	}
	if rand.IntN(2) == 0 {
		n[0] = byte(rand.IntN(256))
	}
	return n
}

// The tree has the same content as a map after every change.
func TestTree(t *testing.T) {
	t.Parallel()
	d, want, root := newDisk(), map[Name]uint64{}, uint64(1)
	for range 300 {
		tree := d.begin(root)
		changes := map[Name]uint64{}
		for range 1 + rand.IntN(60) {
			changes[someName()] = tree.Now
		}
		for n := range want { // in random order
			if len(changes) > 80 || rand.IntN(4) == 0 {
				break
			}
			changes[n] = 0
		}
		var entries []Entry
		for n, version := range changes {
			entries = append(entries, Entry{n, version})
			want[n] = version
			if version == 0 {
				delete(want, n)
			}
		}
		slices.SortFunc(entries, func(a, b Entry) int { return bytes.Compare(a.Name[:], b.Name[:]) })
		require.NoError(t, tree.SetAll(entries))
		root = tree.Root
		require.Equal(t, tree.Now, root)

		for n := range changes {
			found, err := tree.Find(n)
			require.NoError(t, err)
			require.Equal(t, want[n], found)
		}
		absent, err := tree.Find(someName())
		require.NoError(t, err)
		require.LessOrEqual(t, absent, root)
	}
	requireHolds(t, d, root, want)
	require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(d.nodes)), func(prefix string) bool {
		return len(prefix) > 2
	}), "there are several levels")

	// After every name was removed only the root is left.
	for _, n := range slices.SortedFunc(maps.Keys(want), func(a, b Name) int { return bytes.Compare(a[:], b[:]) }) {
		tree := d.begin(root)
		require.NoError(t, tree.Set(Entry{Name: n}))
		root = tree.Root
	}
	requireHolds(t, d, root, map[Name]uint64{})
	require.Len(t, d.nodes, 1)
}

// requireHolds asserts that lookups, walks from any name and visits all agree with want.
func requireHolds(t *testing.T, d *disk, root uint64, want map[Name]uint64) {
	t.Helper()
	tree := d.begin(root)
	sorted := slices.SortedFunc(maps.Keys(want), func(a, b Name) int { return bytes.Compare(a[:], b[:]) })
	walk := func(after *Name) (names []Name) {
		require.NoError(t, tree.Walk(after, func(e Entry) (bool, error) {
			require.Equal(t, want[e.Name], e.Version)
			names = append(names, e.Name)
			return true, nil
		}))
		return names
	}
	require.Equal(t, sorted, walk(nil))
	for i := 0; i < len(sorted); i += 97 {
		found, err := tree.Find(sorted[i])
		require.NoError(t, err)
		require.Equal(t, want[sorted[i]], found)
		require.Equal(t, sorted[i+1:], append([]Name{}, walk(&sorted[i])...))
		first := 0
		require.NoError(t, tree.Walk(&sorted[i], func(Entry) (bool, error) { first++; return false, nil }))
		require.LessOrEqual(t, first, 1)
	}
	nodes, names := 0, 0
	require.NoError(t, tree.Visit(func(_ []byte, entries []Entry, err error) error {
		nodes++
		names += len(entries)
		return err
	}))
	require.Len(t, d.nodes, nodes)
	require.Len(t, want, names)
}

// Bytes that are not a node are damage, never absence.
func TestMalformed(t *testing.T) {
	t.Parallel()
	for name, b := range map[string][]byte{
		"nothing":             {},
		"an unknown kind":     {2},
		"half an entry":       append([]byte{kindLeaf}, make([]byte, entrySize-1)...),
		"a short inner node":  append([]byte{kindInner}, make([]byte, fanOut*8-1)...),
		"children for ever":   append([]byte{kindInner}, bytes.Repeat([]byte{1}, fanOut*8)...),
		"children of a child": append([]byte{kindInner}, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 7}, fanOut)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := Tree{
				Root: 1, Now: 2, Load: func([]byte, uint64) ([]byte, error) { return b, nil },
				Save: func(_, _ []byte) error { return nil },
			}
			_, err := tree.Find(someName())
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.ErrorIs(t, tree.Walk(nil, func(Entry) (bool, error) { return true, nil }), secret.ErrCorrupt)
			require.ErrorIs(t, tree.Set(Entry{someName(), 2}), secret.ErrCorrupt)
			require.ErrorIs(t, tree.Visit(func(_ []byte, _ []Entry, err error) error { return err }), secret.ErrCorrupt)
		})
	}
}
