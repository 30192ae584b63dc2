package sealed

import (
	"go.etcd.io/bbolt"
)

// tx is one transaction of the file.
type tx struct {
	*openFile

	id     uint64
	index  index
	root   uint64        // the bucket's root page, as committed
	bucket *bbolt.Bucket // nil in a read transaction
	walked map[string]bool
	nodes  *nodeCache // nil if nothing is to be kept
	pages  *pageCache // nil in a write transaction, too: bbolt does not know what we know
}

// begin returns the transaction id on the tree whose bucket of buckets is at the
// page root, and whose index was committed by the transaction committed: id itself,
// unless id is one that writes.
func (f *openFile) begin(id, root, committed uint64) (t *tx, err error) {
	t = &tx{openFile: f, id: id}
	if !f.doubtful.Load() {
		t.nodes = &f.seen.nodes
		if committed == id {
			t.pages = f.seen.pagesAt(id)
		}
	}
	t.index = index{root: committed, now: id, load: t.loadNode, look: t.lookNode, save: t.saveNode}
	t.root, err = bucketRoot(f.file, f.meta.pageSize, root, t.pages)
	return t, err
}

func (f *openFile) beginUpdate(bt *bbolt.Tx) (*tx, error) {
	id := uint64(bt.ID()) //nolint:gosec // as in view
	t, err := f.begin(id, uint64(bt.Cursor().Bucket().Root()), id-1)
	if err != nil {
		return nil, err
	}
	// bbolt lets the file grow by this, or to what is mapped if that is less.
	f.db.AllocSize = int(max(minGrowth, min(bt.Size(), maxGrowth)))
	t.walked = map[string]bool{}
	if t.bucket = bt.Bucket(bucketName); t.bucket == nil {
		return nil, damaged("its bucket is missing")
	}
	return t, nil
}

// walk makes sure that bbolt can follow the pages to key: it would recurse on
// pages that point back, and nothing recovers from a stack that is used up.
func (t *tx) walk(key []byte) error {
	if t.walked[string(key)] {
		return nil
	}
	if _, _, err := lookup(t.file, t.meta.pageSize, t.root, key, nil); err != nil {
		return err
	}
	t.walked[string(key)] = true
	return nil
}

// get returns what is stored under key, which must be there. It is valid until
// the transaction ends.
func (t *tx) get(key []byte) (v []byte, err error) {
	if t.bucket == nil {
		v, _, err = lookup(t.file, t.meta.pageSize, t.root, key, t.pages)
	} else if err = t.walk(key); err == nil {
		v = t.bucket.Get(key) // with what this transaction has changed
	}
	if err == nil && v == nil {
		err = damaged("something that must be there is missing")
	}
	return v, err
}

func (t *tx) put(key, v []byte) error {
	if err := t.walk(key); err != nil {
		return err
	}
	return t.bucket.Put(key, v)
}

func (t *tx) remove(key []byte) error {
	if err := t.walk(key); err != nil {
		return err
	}
	return t.bucket.Delete(key)
}

// lookNode is loadNode for those who only look: what is known of the node will do.
// What a transaction has written itself is never known.
func (t *tx) lookNode(prefix []byte, version uint64) (node, error) {
	if t.bucket != nil && version == t.id {
		return t.loadNode(prefix, version)
	}
	if n, ok := t.nodes.get(prefix, version); ok {
		return n, nil
	}
	n, err := t.loadNode(prefix, version)
	if err == nil {
		t.nodes.put(prefix, version, n)
	}
	return n, err
}

func (t *tx) loadNode(prefix []byte, version uint64) (node, error) {
	key := nodeKey(prefix)
	b, err := t.get(key)
	if err != nil {
		return node{}, err
	}
	plain, err := unseal(t.keys.node, b, boundTo(key, version, "node"))
	if err != nil {
		return node{}, err
	}
	return decodeNode(plain)
}

func (t *tx) saveNode(prefix []byte, n *node) error {
	key := nodeKey(prefix)
	if n == nil {
		return t.remove(key)
	}
	return t.put(key, seal(t.keys.node, n.encode(), boundTo(key, t.id, "node")))
}
