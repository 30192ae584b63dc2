package sealed

import (
	"bytes"
	"context"
)

// Wrapped returns the data key of the store as its file has it: encrypted, so that only the key of
// the store opens it. It is nil if the store has no file yet.
func (s *Store) Wrapped(ctx context.Context) (wrapped []byte, err error) {
	err = s.use(ctx, nil, func() error { wrapped = bytes.Clone(s.made.wrapped); return nil })
	return wrapped, err
}

// Opens returns nil if the key opens wrapped, a result of [Store.Wrapped], and otherwise an error
// that wraps [secret.ErrDenied] or says why the key cannot be read. It never asks a person or a
// plugin: if the key would, tried is false.
func (k *Key) Opens(wrapped []byte) (tried bool, err error) {
	k.load(wrapped)
	if k.asks(wrapped) {
		return false, nil
	}
	_, err = k.open(wrapped)
	return true, err
}
