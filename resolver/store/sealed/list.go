package sealed

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed/index"
)

// listPage is the number of secrets on a page of List if the caller sets no limit.
const listPage = 1000

// List implements [store.Lister]. Secrets are in the order of the hashes of their names.
func (s *Store) List(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
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

		var last index.Name
		err = s.view(func(t *tx) error {
			return t.index.Walk(after, func(e index.Entry) (bool, error) {
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
				last = e.Name
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

// newToken returns the token of the page that begins after the name n: the name and a tag. Without
// the tag, any 32 bytes would be accepted as a token.
func (k *keys) newToken(n index.Name) string {
	return base64.RawURLEncoding.EncodeToString(append(n[:], k.tag(n)...))
}

func (k *keys) tag(n index.Name) []byte {
	h := hmac.New(sha256.New, k.token)
	_, _ = h.Write(n[:])
	return h.Sum(nil)[:16]
}

func (k *keys) parseToken(token string) (*index.Name, error) {
	if token == "" {
		return nil, nil //nolint:nilnil // without a token the listing begins with the first secret
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != index.NameSize+16 ||
		!hmac.Equal(b[index.NameSize:], k.tag(index.Name(b[:index.NameSize]))) {
		return nil, errNotOurToken
	}
	n := index.Name(b[:index.NameSize])
	return &n, nil
}
