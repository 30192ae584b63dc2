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

// someName returns a name that shares much with others: long beginnings with many, as the names of
// one scope do, and single bytes.
func someName() (n Name) {
	for i := range n {
		n[i] = byte(rand.IntN(2))
	}
	switch rand.IntN(4) {
	case 0:
		n[0] = byte(rand.IntN(256))
	case 1:
		clear(n[:24])
		n[24] = byte(rand.IntN(256))
	case 2:
		clear(n[:rand.IntN(40)])
	}
	return n
}

// The tree has the same content as a map after every change.
func TestTree(t *testing.T) {
	t.Parallel()
	d, want, root := newDisk(), map[Name]Entry{}, uint64(1)
	for range 300 {
		tree := d.begin(root)
		changes := map[Name]Entry{}
		for range 1 + rand.IntN(60) {
			n := someName()
			changes[n] = Entry{n, tree.Now, Weight{uint64(rand.IntN(2)), rand.Uint64N(1 << (8 * rand.IntN(4)))}}
		}
		for n := range want { // in random order
			if len(changes) > 80 || rand.IntN(4) == 0 {
				break
			}
			changes[n] = Entry{Name: n}
		}
		changes[Name{255, 255}] = Entry{Name: Name{255, 255}} // which is not there
		entries := slices.Collect(maps.Values(changes))
		for n, e := range changes {
			want[n] = e
			if e.Version == 0 {
				delete(want, n)
			}
		}
		Sort(entries)
		require.NoError(t, tree.SetAll(entries))
		root = tree.Root
		require.Equal(t, tree.Now, root)

		for n := range changes {
			found, err := tree.Find(n)
			require.NoError(t, err)
			if want[n].Version == 0 {
				require.Zero(t, found.Version)
				continue
			}
			require.Equal(t, want[n], found)
		}
		absent, err := tree.Find(someName())
		require.NoError(t, err)
		require.LessOrEqual(t, absent.Version, root)
	}
	requireHolds(t, d, root, want)
	require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(d.nodes)), func(prefix string) bool {
		return len(prefix) > 2
	}), "there are several levels")

	// After every name was removed only the root is left.
	for len(want) > 0 {
		tree := d.begin(root)
		var gone []Entry
		for n := range want {
			if gone = append(gone, Entry{Name: n}); len(gone) == 500 {
				break
			}
		}
		for _, e := range gone {
			delete(want, e.Name)
		}
		Sort(gone)
		require.NoError(t, tree.SetAll(gone))
		root = tree.Root
		requireHolds(t, d, root, want)
	}
	require.Len(t, d.nodes, 1)
	require.Equal(t, Empty(), d.nodes[""])
}

// requireHolds asserts that lookups, sums, walks from any name and of any prefix, and visits all
// agree with want.
func requireHolds(t *testing.T, d *disk, root uint64, want map[Name]Entry) {
	t.Helper()
	tree := d.begin(root)
	sorted := slices.Collect(maps.Values(want))
	Sort(sorted)
	for i := 0; i < len(sorted); i += 97 {
		found, err := tree.Find(sorted[i].Name)
		require.NoError(t, err)
		require.Equal(t, sorted[i], found)
	}
	prefixes := [][]byte{nil, make([]byte, 8), make([]byte, 24), {255}}
	for _, e := range sorted {
		if rand.IntN(200) == 0 {
			prefixes = append(prefixes, bytes.Clone(e.Name[:rand.IntN(NameSize+1)]))
		}
	}
	for _, prefix := range prefixes {
		var within []Entry
		var sum Weight
		for _, e := range sorted {
			if bytes.HasPrefix(e.Name[:], prefix) {
				within = append(within, e)
				sum.add(e.Weight)
			}
		}
		weighed, err := tree.Sum(prefix)
		require.NoError(t, err)
		require.Equal(t, sum, weighed)
		var after []byte
		if len(sorted) > 0 && rand.IntN(2) == 0 {
			name := sorted[rand.IntN(len(sorted))].Name
			after = name[:]
		}
		within = slices.DeleteFunc(within, func(e Entry) bool {
			return after != nil && bytes.Compare(e.Name[:], after) <= 0
		})
		limit := len(within)
		if limit > 0 {
			limit = 1 + rand.IntN(limit)
		}
		var walked []Entry
		require.NoError(t, tree.Walk(prefix, after, func(e Entry) (bool, error) {
			walked = append(walked, e)
			return len(walked) < limit, nil
		}))
		require.Equal(t, append([]Entry{}, within[:limit]...), append([]Entry{}, walked...))
	}
	nodes := 0
	var visited []Entry
	require.NoError(t, tree.Visit(func(_ []byte, entries []Entry, err error) error {
		nodes++
		visited = append(visited, entries...)
		return err
	}))
	require.Len(t, d.nodes, nodes)
	require.Equal(t, append([]Entry{}, sorted...), append([]Entry{}, visited...))
}

// A walk of few names among many loads few nodes.
func TestWalkCost(t *testing.T) {
	t.Parallel()
	d := newDisk()
	entries := make([]Entry, 50_000)
	for i := range entries {
		n := &entries[i].Name
		n[8], n[9], n[10] = byte(i>>16), byte(i>>8), byte(i/10*10) // ten names each
		for j := 24; j < NameSize; j++ {
			n[j] = byte(rand.IntN(256))
		}
		entries[i].Version, entries[i].Weight = 2, Weight{1, 3}
	}
	Sort(entries)
	tree := d.begin(1)
	require.NoError(t, tree.SetAll(entries))
	loaded := 0
	tree = d.begin(tree.Root)
	load := tree.Load
	tree.Load = func(prefix []byte, version uint64) ([]byte, error) {
		loaded++
		return load(prefix, version)
	}
	prefix := entries[len(entries)/3].Name[:24]
	walked := 0
	require.NoError(t, tree.Walk(prefix, nil, func(Entry) (bool, error) { walked++; return true, nil }))
	sum, err := tree.Sum(prefix)
	require.NoError(t, err)
	require.Equal(t, Weight{uint64(walked), uint64(3 * walked)}, sum)
	require.InDelta(t, 8, walked, 7)
	require.Less(t, loaded, 10)
}

// Bytes that are not a node are damage, never absence.
func TestMalformed(t *testing.T) {
	t.Parallel()
	inner := (&node{children: make([]child, fanOut)}).encode(0)
	for name, b := range map[string][]byte{
		"nothing":             {},
		"an unknown kind":     {2, 0, 0, 0},
		"a leaf of no widths": {kindLeaf, 1, 1},
		"half an entry":       append([]byte{kindLeaf, 1, 1, 1}, make([]byte, NameSize+2)...),
		"a wide number":       append([]byte{kindLeaf, 9, 0, 0}, make([]byte, NameSize+9)...),
		"a short inner node":  append([]byte{kindInner, 0, 1, 0, 0}, make([]byte, fanOut-1)...),
		"an inner node that is longer than it says": append(bytes.Clone(inner), 0),
		"no common text":       {kindInner, 5, 0, 0},
		"a common text of all": append(append([]byte{kindInner, NameSize - 1}, make([]byte, NameSize-1)...), 0, 0, 0),
		"children for ever":    append([]byte{kindInner, 0, 1, 1, 1}, bytes.Repeat([]byte{1}, fanOut*3)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := Tree{
				Root: 1, Now: 2, Load: func([]byte, uint64) ([]byte, error) { return b, nil },
				Save: func(_, _ []byte) error { return nil },
			}
			_, err := tree.Find(someName())
			require.ErrorIs(t, err, secret.ErrCorrupt)
			_, err = tree.Sum(make([]byte, NameSize))
			require.ErrorIs(t, err, secret.ErrCorrupt)
			require.ErrorIs(t, tree.Walk(nil, nil, func(Entry) (bool, error) { return true, nil }), secret.ErrCorrupt)
			require.ErrorIs(t, tree.SetAll([]Entry{{Name: someName(), Version: 2}}), secret.ErrCorrupt)
			require.ErrorIs(t, tree.Visit(func(_ []byte, _ []Entry, err error) error { return err }), secret.ErrCorrupt)
		})
	}
}

// A node whose weight is not that which the node above says is damage.
func TestWeightOfBelow(t *testing.T) {
	t.Parallel()
	d := newDisk()
	var entries []Entry
	for range 300 {
		entries = append(entries, Entry{someName(), 2, Weight{1, 9}})
	}
	Sort(entries)
	tree := d.begin(1)
	require.NoError(t, tree.SetAll(slices.Compact(entries)))
	whole := func(_ []byte, _ []Entry, err error) error { return err }
	require.NoError(t, tree.Visit(whole))
	for prefix, b := range d.nodes {
		if n, err := decode(b, []byte(prefix)); len(prefix) > 0 && err == nil && len(n.leaf) > 0 {
			n.leaf[0].Bytes++
			d.nodes[prefix] = n.encode(len(prefix))
			break
		}
	}
	require.ErrorIs(t, tree.Visit(whole), secret.ErrCorrupt)
}
