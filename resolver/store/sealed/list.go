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

// List implements [store.Lister]. Secrets are in the order of their names in the index, which keeps
// those of a scope together. A list reads the nodes and records of its page alone, at any size of
// the store; in a store of format 1, and with a filter that has no org, it reads what it skips, too.
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
		var size int // of the part of a name that a token has in this format
		err = s.view(func(t *tx) error {
			size = t.nameSize()
			if after != nil && len(after) != size {
				return errOldToken
			}
			return t.walkFilter(f, after, func(e index.Entry) (bool, error) {
				if err := ctx.Err(); err != nil {
					return false, err
				}
				if len(page) == limit {
					next = s.keys.newToken(last[index.NameSize-size:])
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
			return s.o.fileError(err)
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	return page, next, nil
}

var (
	errNotOurToken = fmt.Errorf("%w: the token is not of this store", secret.ErrInvalid)
	errOldToken    = secret.WithHint(
		fmt.Errorf("%w: the store was rewritten since it gave this token", secret.ErrInvalid),
		"list again from the beginning")
)

// newToken returns the token of the page that begins after the name n: the name and a tag. Without
// the tag, any bytes of its length would be accepted as a token.
func (k *keys) newToken(n []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(n, k.tag(n)...))
}

func (k *keys) tag(n []byte) []byte {
	h := hmac.New(sha256.New, k.token)
	_, _ = h.Write(n)
	return h.Sum(nil)[:tagSize]
}

const tagSize = 16 // bytes

// parseToken returns the name in a token, or nil if token is empty.
func (k *keys) parseToken(token string) ([]byte, error) {
	if token == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < tagSize {
		return nil, errNotOurToken
	}
	n, tag := b[:len(b)-tagSize], b[len(b)-tagSize:]
	if !hmac.Equal(tag, k.tag(n)) {
		return nil, errNotOurToken
	}
	return n, nil
}
