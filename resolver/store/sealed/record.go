package sealed

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// The first byte of the keys of nodes of the index, of those in format 1, and of records.
const (
	nodePrefix   = 'i'
	node1Prefix  = 'n'
	recordPrefix = 'r'
)

// keys are the keys derived from the data key, one for each use.
type keys struct {
	name   []byte
	scope  []byte
	scopes *scopeHashes
	token  []byte
	node   cipher.AEAD
	node1  cipher.AEAD // of format 1
	record cipher.AEAD
}

func deriveKeys(dataKey []byte) keys {
	derive := func(use string) []byte {
		key, err := hkdf.Key(sha256.New, dataKey, nil, "inject sealed store "+use, chacha20poly1305.KeySize)
		if err != nil {
			panic(err) // only for lengths that are too large for SHA-256
		}
		return key
	}
	aead := func(use string) cipher.AEAD {
		a, err := chacha20poly1305.NewX(derive(use))
		if err != nil {
			panic(err) // only for a wrong key size
		}
		return a
	}
	return keys{
		name: derive("v1 name"), scope: derive("v2 scope"), token: derive("v1 token"), scopes: &scopeHashes{},
		node: aead("v2 node"), node1: aead("v1 node"), record: aead("v1 record"),
	}
}

func nodeKey(prefix []byte) []byte { return append([]byte{nodePrefix}, prefix...) }

func node1Key(prefix []byte) []byte { return append([]byte{node1Prefix}, prefix...) }

// recordKey returns the key of the record of n, in which the scope has no part.
func recordKey(n index.Name) []byte { return append([]byte{recordPrefix}, n[scopeSize:]...) }

// boundTo returns the associated data of a sealed part: its kind, the version that it was written
// as and the key that it is stored under. A part that is moved or that is old does not open.
func boundTo(key []byte, version uint64, part string) []byte {
	return append(binary.BigEndian.AppendUint64([]byte(part), version), key...)
}

func seal(a cipher.AEAD, plain, bound []byte) []byte {
	b := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	_, _ = rand.Read(b) // never fails (Go 1.24)
	return a.Seal(b, b, plain, bound)
}

// unseal appends the content of b to plain.
func unseal(a cipher.AEAD, plain, b, bound []byte) ([]byte, error) {
	if len(b) < chacha20poly1305.NonceSizeX {
		return nil, damaged("something sealed is cut short")
	}
	plain, err := a.Open(plain, b[:chacha20poly1305.NonceSizeX], b[chacha20poly1305.NonceSizeX:], bound)
	if err != nil {
		return nil, damaged("something sealed was changed")
	}
	return plain, nil
}

// sealedInfo is the form of [store.Info] in a record.
type sealedInfo struct {
	Org     string     `json:"org"`
	Domain  string     `json:"domain,omitempty"`
	Project string     `json:"project,omitempty"`
	Key     string     `json:"key"`
	Type    store.Type `json:"type,omitempty"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
}

// putRecord stores a secret as version t.id, and returns its entry for the index.
func (t *tx) putRecord(n index.Name, info store.Info, v secret.Value) (index.Entry, error) {
	e := index.Entry{Name: n, Version: t.id, Weight: weightOf(v.Len())}
	r := info.Ref
	plain, err := json.Marshal(sealedInfo{r.Org, r.Domain, r.Project, r.Key, info.Type, info.Created, info.Updated})
	if err != nil {
		return e, err
	}
	key := recordKey(n)
	head := seal(t.keys.record, plain, boundTo(key, t.id, "info"))
	b := binary.BigEndian.AppendUint16(nil, uint16(len(head))) //nolint:gosec // names are short: head is under 1 KiB
	b = append(append(b, head...), seal(t.keys.record, v.Reveal(), boundTo(key, t.id, "value"))...)
	return e, t.put(key, b)
}

func weightOf(valueLen int) index.Weight {
	return index.Weight{Secrets: 1, Bytes: uint64(valueLen)} //nolint:gosec // a length
}

// sealedOverhead is how many bytes longer something is once it is sealed.
const sealedOverhead = chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// loadInfo returns the decrypted info of the record e, and its value, which is still sealed.
func (t *tx) loadInfo(e index.Entry) (info store.Info, value []byte, err error) {
	key := recordKey(e.Name)
	b, err := t.get(key)
	if err != nil {
		return info, nil, err
	}
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return info, nil, damaged("a record is cut short")
	}
	head, value := b[2:2+binary.BigEndian.Uint16(b)], b[2+binary.BigEndian.Uint16(b):]
	t.plain, err = unseal(t.keys.record, t.plain[:0], head, boundTo(key, e.Version, "info"))
	if err != nil {
		return info, nil, err
	}
	var i sealedInfo
	if err := json.Unmarshal(t.plain, &i); err != nil {
		return info, nil, damaged("a record is malformed")
	}
	ref := secret.Ref{Scope: secret.Scope{Org: i.Org, Domain: i.Domain, Project: i.Project}, Key: i.Key}
	return store.Info{Ref: ref, Type: i.Type, Created: i.Created, Updated: i.Updated}, value, nil
}

func (t *tx) loadValue(e index.Entry) (secret.Value, store.Info, error) {
	info, sealedValue, err := t.loadInfo(e)
	if err != nil {
		return secret.Value{}, info, err
	}
	plain, err := unseal(t.keys.record, nil, sealedValue, boundTo(recordKey(e.Name), e.Version, "value"))
	if err != nil {
		return secret.Value{}, store.Info{}, err
	}
	return secret.NewValue(plain), info, nil
}

// find returns the index entry of ref, or [secret.ErrNotFound] with the name in the entry.
func (t *tx) find(ref secret.Ref) (e index.Entry, err error) {
	n := t.keys.nameOf(ref)
	if t.format == 1 {
		e.Name = n
		e.Version, err = t.index1.Find(index.Name1(n[scopeSize:]))
	} else {
		e, err = t.index.Find(n)
	}
	if err == nil && e.Version == 0 {
		err = secret.ErrNotFound
	}
	return e, err
}
