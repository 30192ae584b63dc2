package identity_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"inject/resolver/secret"
	"inject/resolver/serve/identity"
)

// TestMain gives the process a proxy that does not answer, because Go reads HTTP_PROXY only
// once. Requests to loopback must not use it.
func TestMain(m *testing.M) {
	if err := os.Setenv("HTTP_PROXY", "http://127.0.0.1:1"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	patience = time.Minute // of a loaded machine
	often    = 10 * time.Millisecond
)

func bearer(token string) identity.Credentials {
	return identity.Credentials{Bearer: secret.NewValue([]byte(token))}
}

// canary is a text that occurs nowhere else.
func canary() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return "canary" + base64.RawURLEncoding.EncodeToString(b[:])
}

// leaks returns the parts of token and the canaries that are in text.
func leaks(text, token string, canaries ...string) (found []string) {
	for _, part := range append(strings.FieldsFunc(token, func(r rune) bool {
		return r == '.' ||
			unicode.IsSpace(r)
	}), canaries...) {
		for i := 0; i+10 <= len(part); i++ {
			if strings.Contains(text, part[i:i+10]) {
				found = append(found, part[i:i+10])
			}
		}
	}
	return found
}

// refuses checks that a refuses c for that reason, with an error that does not quote the
// token.
func refuses(t *testing.T, a identity.Authenticator, c identity.Credentials, reason string, canaries ...string) {
	t.Helper()
	id, err := a.Authenticate(t.Context(), c)
	require.ErrorIs(t, err, identity.ErrUnauthenticated)
	require.NotErrorIs(t, err, identity.ErrNone)
	require.NotErrorIs(t, err, secret.ErrUnavailable)
	require.Equal(t, reason, identity.Reason(err), err)
	require.Equal(t, identity.Identity{}, id)
	token := string(c.Bearer.Reveal())
	if len(token) >= 10 {
		require.NotEmpty(t, leaks("x"+token, token))
	}
	require.Empty(t, leaks(fmt.Sprintf("%v %+v %q", err, err, err), token, canaries...))
}

func passesOn(t *testing.T, a identity.Authenticator, c identity.Credentials) {
	t.Helper()
	id, err := a.Authenticate(t.Context(), c)
	require.ErrorIs(t, err, identity.ErrNone)
	require.NotErrorIs(t, err, identity.ErrUnauthenticated)
	require.Equal(t, identity.Identity{}, id)
	require.Empty(t, leaks(err.Error(), string(c.Bearer.Reveal())))
}

func accepts(t *testing.T, a identity.Authenticator, c identity.Credentials) identity.Identity {
	t.Helper()
	id, err := a.Authenticate(t.Context(), c)
	require.NoError(t, err)
	require.NotEmpty(t, id.Method)
	require.NotEmpty(t, id.Name)
	return id
}

type stub struct {
	id    identity.Identity
	err   error
	asked *int
}

func (s stub) Authenticate(context.Context, identity.Credentials) (identity.Identity, error) {
	*s.asked++
	return s.id, s.err
}

func TestChain(t *testing.T) {
	asked := 0
	none := stub{err: fmt.Errorf("x: %w", identity.ErrNone), asked: &asked}
	some := stub{id: identity.New("a", "b", nil), asked: &asked}
	down := stub{err: secret.ErrUnavailable, asked: &asked}
	other := stub{err: errors.New("x"), asked: &asked}

	id := accepts(t, identity.Chain{none, none, some, down}, identity.Credentials{})
	require.Equal(t, "b", id.Name)
	require.Equal(t, 3, asked)
	_, err := identity.Chain{none, down, some}.Authenticate(t.Context(), identity.Credentials{})
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.Equal(t, identity.ReasonUnavailable, identity.Reason(err))
	_, err = identity.Chain{other, some}.Authenticate(t.Context(), identity.Credentials{})
	require.ErrorIs(t, err, other.err)
	require.Equal(t, identity.ReasonOther, identity.Reason(err))

	for _, chain := range []identity.Chain{nil, {}, {none}} {
		_, err := chain.Authenticate(t.Context(), identity.Credentials{})
		require.ErrorIs(t, err, identity.ErrUnauthenticated)
		require.ErrorIs(t, err, identity.ErrNone)
		require.Equal(t, identity.ReasonNone, identity.Reason(err))
		refuses(t, chain, bearer("something-that-nobody-knows"), identity.ReasonUnknown)
	}
	require.Empty(t, identity.Reason(nil))
}

func TestIdentity(t *testing.T) {
	var nobody identity.Identity
	require.Empty(t, nobody.Attribute("token"))
	i := identity.New("m", "n", map[string][]string{"a": {"1", "2"}})
	require.Equal(t, "m", i.Method)
	require.Empty(t, i.Attribute("b"))
	i.Attribute("a")[0] = "changed"
	require.Equal(t, []string{"1", "2"}, i.Attribute("a"))
	require.Equal(t, "https://issuer#me@example.com", identity.New("jwt", "https://issuer#me@example.com", nil).Name)
	require.Equal(t, `a\nb\x00\xff\u202e`, identity.New("jwt", "a\nb\x00\xff\u202e", nil).Name)
}

// A name fits on a line of a log, and different names stay different.
func TestNames(t *testing.T) {
	text := rapid.OneOf(
		rapid.StringMatching(`[a"\\n\n]{0,5}`),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 600), func(b []byte) string { return string(b) }),
		rapid.Map(rapid.IntRange(190, 300), func(n int) string { return strings.Repeat("ä", n/2) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		a, b := text.Draw(t, "a"), text.Draw(t, "b")
		x, y := identity.New("", a, nil).Name, identity.New("", b, nil).Name
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q are %q and %q", a, b, x, y)
		}
		if z := identity.New("", x, nil).Name; x != a && z == x &&
			len(x) > 200 { // a cut name is never another's whole name
			t.Fatalf("%q is the name of %q and of itself", x, a)
		}
		if len(x) > 256 || !utf8.ValidString(x) ||
			strings.ContainsFunc(x, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q", x)
		}
	})
}
