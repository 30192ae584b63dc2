package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"inject/resolver/secret"
	"inject/resolver/store/sealed/index"
	"inject/resolver/store/sealed/page"
)

// A store of format 1 has an index of the hashes of ids alone: a name is the end of one of today.
// Its records are those of today.

// nameSize is how much of the end of a name the index has in the format of t.
func (t *tx) nameSize() int {
	if t.format == 1 {
		return index.NameSize1
	}
	return index.NameSize
}

// entry1 returns an entry of format 1 in the form of today. The part of the scope is not known.
func entry1(e index.Entry1) (now index.Entry) {
	now.Version = e.Version
	copy(now.Name[scopeSize:], e.Name[:])
	return now
}

// walk1 walks all secrets of a store of format 1.
func (t *tx) walk1(after []byte, yield func(index.Entry) (bool, error)) error {
	var from *index.Name1
	if after != nil {
		n := index.Name1(after)
		from = &n
	}
	return t.index1.Walk(from, func(e index.Entry1) (bool, error) { return yield(entry1(e)) })
}

// visit visits every node of the index: see [index.Tree.Visit].
func (t *tx) visit(visit func(prefix []byte, entries []index.Entry, err error) error) error {
	if t.format > 1 {
		return t.index.Visit(visit)
	}
	return t.index1.Visit(func(prefix []byte, old []index.Entry1, err error) error {
		entries := make([]index.Entry, len(old))
		for i, e := range old {
			entries[i] = entry1(e)
		}
		return visit(prefix, entries, err)
	})
}

// rewritePart is how many entries of the new index one transaction of rewrite writes, which bounds
// its memory. Tests change it.
var rewritePart = 20_000

// rewrite rewrites a file of format 1 in the current format. It writes the new index beside the old
// one in many transactions, and one last transaction makes it current and removes the old one. Until
// then the file is whole in format 1, whose readers do not look at the new index; after it the file
// is whole in the current format. What an earlier rewrite has left, when power was cut, is removed
// first. Records stay as they are, so values are neither decrypted nor written. It takes time and
// memory for each secret: for a million half a minute of a processor and 240 MiB. A file of the
// current format is left alone. f.writing must be held.
func (f *openFile) rewrite() error {
	var r rewriting
	err := f.view(func(t *tx) error {
		if t.format > 1 {
			return nil
		}
		return errors.Join(r.readStale(t), r.read(t))
	})
	if err != nil && errors.Is(err, secret.ErrCorrupt) {
		return secret.WithHint(
			fmt.Errorf("the store is of format 1, and cannot be rewritten for a change before it is whole: %w", err),
			"restore it from a copy; injectd doctor names everything that is damaged")
	}
	if err != nil || r.nodes == nil {
		return err
	}
	for part := range slices.Chunk(r.stale, rewritePart) {
		if err := f.commit(func(t *tx) error { return errors.Join(t.removeAll(part), t.keepRoot1()) }); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(r.entries, rewritePart) {
		if err := f.commit(func(t *tx) error { return errors.Join(r.add(t, part), t.keepRoot1()) }); err != nil {
			return err
		}
	}
	return f.commit(r.finish)
}

// rewriting is one rewrite under way.
type rewriting struct {
	stale   [][]byte      // keys of the new index that an earlier rewrite has left, its root last
	nodes   [][]byte      // keys of the old index
	entries []index.Entry // of the new one
	root    uint64        // the version of the root of the new one; 0 before there is one
}

// readStale finds what an earlier rewrite has left. The root is written by its first transaction and
// removed by the last one of the next rewrite, so without it nothing is left.
func (r *rewriting) readStale(t *tx) error {
	root, _, err := t.pages.Lookup(t.root, nodeKey(nil))
	if err != nil || root == nil {
		return err
	}
	m, _, err := t.readHead()
	if err != nil {
		return err
	}
	_, err = page.Survey(context.Background(), t.file, m, bucketName, func(key []byte) {
		if key[0] == nodePrefix {
			r.stale = append(r.stale, bytes.Clone(key))
		}
	})
	slices.Reverse(r.stale) // the key of the root is the first of all
	return err
}

// read reads the old index. t must be of format 1.
func (r *rewriting) read(t *tx) error {
	// The last transaction of an earlier rewriting may have failed. Others get its id now, and readers
	// would take the file for one of the current format.
	t.rewritten.Store(math.MaxUint64)
	secrets := 0
	err := t.visit(func(prefix []byte, entries []index.Entry, err error) error {
		r.nodes = append(r.nodes, node1Key(prefix))
		secrets += len(entries)
		return err
	})
	if err != nil {
		return err
	}

	r.entries = make([]index.Entry, 0, secrets) // of its size: append would need twice the memory
	marks := map[index.Name]bool{}
	err = t.visit(func(_ []byte, entries []index.Entry, err error) error {
		for _, e := range entries {
			info, sealedValue, err := t.loadInfo(e)
			if err != nil {
				return fmt.Errorf("a secret whose name cannot be read (%x): %w", e.Name[scopeSize:][:8], err)
			}
			name := t.keys.nameOf(info.Ref)
			if !bytes.Equal(name[scopeSize:], e.Name[scopeSize:]) || len(sealedValue) < sealedOverhead {
				return fmt.Errorf("%v: %w", info.Ref, damaged("a record is malformed"))
			}
			r.entries = append(r.entries, index.Entry{
				Name: name, Version: e.Version, Weight: weightOf(len(sealedValue) - sealedOverhead),
			})
			marks[t.keys.mark(info.Ref.Scope)] = true
		}
		return err
	})
	for name := range marks {
		r.entries = append(r.entries, index.Entry{Name: name, Version: t.id})
	}
	index.Sort(r.entries)
	return err
}

// begin makes the root of the new index, unless there is one.
func (r *rewriting) begin(t *tx) error {
	if r.root == 0 {
		r.root = t.id
		if err := t.saveNode(nil, index.Empty()); err != nil {
			return err
		}
	}
	t.index.Root = r.root
	return nil
}

func (r *rewriting) add(t *tx, entries []index.Entry) error {
	if err := r.begin(t); err != nil {
		return err
	}
	r.root = t.id
	return t.index.SetAll(entries)
}

func (r *rewriting) finish(t *tx) error {
	err := r.begin(t)
	if err == nil {
		err = t.removeAll(r.nodes)
	}
	if err == nil {
		err = t.put(formatKey, binary.BigEndian.AppendUint32(nil, format))
	}
	if err == nil {
		err = t.saveRoot()
	}
	t.rewritten.Store(t.id)
	return err
}

func (t *tx) removeAll(keys [][]byte) error {
	for _, key := range keys {
		if err := t.remove(key); err != nil {
			return err
		}
	}
	return nil
}

// keepRoot1 is saveRoot for format 1.
func (t *tx) keepRoot1() error {
	b, err := t.loadNode1(nil, t.index1.Root)
	if err != nil {
		return err
	}
	key := node1Key(nil)
	return t.put(key, seal(t.keys.node1, b, boundTo(key, t.id, "node")))
}
