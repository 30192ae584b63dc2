package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"inject/resolver/secret"
	"inject/resolver/store"
)

// listPage is how many secrets a page of List holds if the caller does not say.
const listPage = 1000

// List implements [store.Lister]. The order is that of the names' hashes.
func (s *Store) List(ctx context.Context, f store.Filter, limit int, token string) (page []store.Info, next string, err error) {
	if limit < 1 {
		limit = listPage
	}
	if err := ctx.Err(); err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	var empty error
	if token != "" {
		empty = errNotOurToken
	}
	err = s.use(ctx, empty, func() error {
		after, err := s.keys.parseToken(token)
		if err != nil {
			return err
		}
		var last name
		err = s.view(func(t *tx) error {
			return t.index.walk(after, func(e entry) (bool, error) {
				if err := ctx.Err(); err != nil {
					return false, err
				}
				if len(page) == limit {
					next = s.keys.newToken(last)
					return false, nil
				}
				info, _, err := t.loadInfo(e)
				if err == nil && f.Match(info.Ref) {
					page = append(page, info)
				}
				last = e.name
				return true, err
			})
		})
		if err != nil {
			return fileError(s.o.Path, err)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	return page, next, nil
}

var errNotOurToken = fmt.Errorf("%w: the token is not of this store", secret.ErrInvalid)

// A token is the name after which a page begins, and a tag that shows that it
// is ours: any other 32 bytes would be a place to begin, too.
func (k *keys) newToken(n name) string {
	return base64.RawURLEncoding.EncodeToString(append(n[:], k.tag(n)...))
}

func (k *keys) tag(n name) []byte {
	h := hmac.New(sha256.New, k.token)
	_, _ = h.Write(n[:])
	return h.Sum(nil)[:16]
}

func (k *keys) parseToken(token string) (*name, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // no token begins at the beginning
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != nameSize+16 || !hmac.Equal(b[nameSize:], k.tag(name(b[:nameSize]))) {
		return nil, errNotOurToken
	}
	n := name(b[:nameSize])
	return &n, nil
}
