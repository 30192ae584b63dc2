package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// FuzzTokens: a valid tokens file has unique names and hashes; an invalid one is refused
// without being quoted.
func FuzzTokens(f *testing.F) {
	value, line, err := NewToken("name")
	require.NoError(f, err)
	token := string(value.Reveal())
	for _, text := range []string{
		"", "#", line, line + "\n" + line,
		line + " expires=2030-01-01T00:00:00Z # x", token + " x", "x " + token, "a\x00 sha256:\xff",
	} {
		f.Add(text)
	}
	sum := sha256.Sum256([]byte(token))
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens([]byte(text))
		if err != nil {
			require.Nil(t, tokens)
			for field := range strings.FieldsSeq(text) {
				if len(field) > 40 {
					require.NotContains(t, err.Error(), field)
				}
			}
			return
		}
		names := map[string]bool{}
		for _, one := range tokens {
			require.NoError(t, validTokenName(one.name))
			require.False(t, names[one.name])
			names[one.name] = true
		}
		more, err := parseTokens([]byte(text + "\n" + line))
		if _, there := tokens[sum]; there || names["name"] {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		require.Len(t, more, len(tokens)+1)
		require.Equal(t, "name", more[sum].name)
	})
}

// A request that used keys which have been replaced since retries with the new ones, instead
// of causing another fetch.
func TestRefreshKnowsWhatWasSeen(t *testing.T) {
	var fetches atomic.Int64
	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "k"}}})
	require.NoError(t, err)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(body)
	}))
	defer s.Close()
	r, err := newKeyURL(
		t.Context(),
		JWTOptions{Keys: s.URL, Refresh: time.Hour, Cooldown: time.Nanosecond, Log: hclog.NewNullLogger()},
	)
	require.NoError(t, err)
	require.NoError(t, r.refresh(t.Context(), nil))
	require.Equal(t, int64(1), fetches.Load())
	require.NoError(t, r.refresh(t.Context(), r.current()))
	require.Equal(t, int64(2), fetches.Load())
}

// Different claims have different attribute names.
func TestClaimNamesAreOneToOne(t *testing.T) {
	path := rapid.SliceOfN(rapid.StringMatching(`[a.\\]{0,3}`), 1, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := path.Draw(t, "a"), path.Draw(t, "b")
		name := func(path []string) string {
			var claims any = "x"
			for _, segment := range slices.Backward(path) {
				claims = map[string]any{segment: claims}
			}
			attributes := map[string][]string{}
			addClaims(attributes, "claim", claims.(map[string]any), maxDepth) //nolint:errcheck // it is one
			require.Len(t, attributes, 1)
			for name := range attributes {
				return name
			}
			return ""
		}
		require.Equal(t, strings.Join(a, "\x00") == strings.Join(b, "\x00") && len(a) == len(b), name(a) == name(b))
	})
}
