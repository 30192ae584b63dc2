package sealed

import (
	"crypto/cipher"

	"go.etcd.io/bbolt"

	"inject/resolver/store/sealed/index"
	"inject/resolver/store/sealed/page"
)

// tx is one transaction of the file. It is not safe for concurrent use.
type tx struct {
	*openFile

	id     uint64
	format int             // of what was committed before
	index  index.Tree      // of format 2
	index1 index.Tree1     // of format 1
	root   uint64          // the bucket's root page, as committed
	bucket *bbolt.Bucket   // nil in a read transaction
	walked map[string]bool // the keys whose path has been walked
	*scratch
}

// scratch is the memory of a transaction, which a later one uses again: a page, and a decrypted
// part of the index or info of a record. Values are decrypted elsewhere.
type scratch struct {
	pages *page.Reader
	plain []byte
}

func (f *openFile) newScratch() *scratch {
	return &scratch{pages: page.NewReader(f.file, f.meta.PageSize)}
}

// begin returns the transaction id. root is the page of the bucket of buckets. committed is the
// transaction that wrote the index: id for reads, id-1 for writes. No other transaction may use s
// until this one has ended.
func (f *openFile) begin(id, root, committed uint64, s *scratch) (t *tx, err error) {
	t = &tx{openFile: f, id: id, scratch: s, format: format}
	if committed < f.rewritten.Load() {
		t.format = 1
	}
	t.index = index.Tree{Root: committed, Now: id, Load: t.loadNode, Save: t.saveNode}
	t.index1 = index.Tree1{Root: committed, Load: t.loadNode1}
	t.root, err = t.pages.Bucket(root, bucketName)
	return t, err
}

func (f *openFile) beginUpdate(bt *bbolt.Tx) (*tx, error) {
	id := uint64(bt.ID()) //nolint:gosec // as in view
	t, err := f.begin(id, uint64(bt.Cursor().Bucket().Root()), id-1, f.newScratch())
	if err != nil {
		return nil, err
	}
	// By how many bytes bbolt lets the file grow, but not past its mapping.
	f.db.AllocSize = int(max(minGrowth, min(bt.Size(), maxGrowth)))
	t.walked = map[string]bool{}
	if t.bucket = bt.Bucket(bucketName); t.bucket == nil {
		return nil, damaged("its bucket is missing")
	}
	return t, nil
}

// walk makes sure that bbolt can follow the pages to key. On pages that point back bbolt would
// recurse until the stack is exhausted, which ends the process.
func (t *tx) walk(key []byte) error {
	if t.walked[string(key)] {
		return nil
	}
	if _, _, err := t.pages.Lookup(t.root, key); err != nil {
		return err
	}
	t.walked[string(key)] = true
	return nil
}

// get returns the bytes stored under key. It is damage if there are none. The bytes are valid until
// the next call of get, put or remove, at most until the transaction ends.
func (t *tx) get(key []byte) (v []byte, err error) {
	if t.bucket == nil {
		v, _, err = t.pages.Lookup(t.root, key)
	} else if err = t.walk(key); err == nil {
		v = t.bucket.Get(key) // which includes the changes of this transaction
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

// loadNode returns the decrypted index node at prefix that was written as version. It is valid
// until the next call of loadNode or loadInfo.
func (t *tx) loadNode(prefix []byte, version uint64) ([]byte, error) {
	return t.loadSealed(t.keys.node, nodeKey(prefix), version)
}

// loadNode1 is loadNode for format 1.
func (t *tx) loadNode1(prefix []byte, version uint64) ([]byte, error) {
	return t.loadSealed(t.keys.node1, node1Key(prefix), version)
}

func (t *tx) loadSealed(a cipher.AEAD, key []byte, version uint64) ([]byte, error) {
	b, err := t.get(key)
	if err != nil {
		return nil, err
	}
	t.plain, err = unseal(a, t.plain[:0], b, boundTo(key, version, "node"))
	return t.plain, err
}

func (t *tx) saveNode(prefix, n []byte) error {
	key := nodeKey(prefix)
	if n == nil {
		return t.remove(key)
	}
	return t.put(key, seal(t.keys.node, n, boundTo(key, t.id, "node")))
}

// saveRoot saves the root as it is: every transaction must save it as its own version.
func (t *tx) saveRoot() error { return t.index.SetAll(nil) }
