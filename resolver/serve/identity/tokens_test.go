package identity_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
)

func newToken(t *testing.T, name string) (token, line string) {
	t.Helper()
	value, line, err := identity.NewToken(name)
	require.NoError(t, err)
	return string(value.Reveal()), line + "\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestTokens(t *testing.T) {
	t.Parallel()
	log, out := harness.Logger()
	path := filepath.Join(t.TempDir(), "tokens")
	alice, aliceLine := newToken(t, "alice@example.com")
	ci, ciLine := newToken(t, "ci/build:1")
	gone, goneLine := newToken(t, "gone")
	goneLine = strings.TrimSpace(goneLine) + " expires=" + time.Now().Add(-time.Second).Format(time.RFC3339) + "\n"
	ciLine = strings.TrimSpace(
		ciLine,
	) + "\texpires=" + time.Now().
		Add(time.Hour).
		Format(time.RFC3339Nano) +
		" # for a while\r\n"
	write(t, path, "# who\n\n"+aliceLine+ciLine+"  "+goneLine)
	tokens, err := identity.NewTokens(t.Context(), path, log)
	require.NoError(t, err)
	require.NoError(t, tokens.Err())

	id := accepts(t, tokens, bearer(alice))
	require.Equal(t, "token", id.Method)
	require.Equal(t, "alice@example.com", id.Name)
	require.Equal(t, []string{"alice@example.com"}, id.Attribute("token"))
	require.Equal(t, "ci/build:1", accepts(t, tokens, bearer(ci)).Name)
	refuses(t, tokens, bearer(gone), identity.ReasonExpired)

	unknown, bobLine := newToken(t, "bob")
	refuses(t, tokens, bearer(unknown), identity.ReasonUnknown)
	for _, odd := range []string{
		alice + "=", alice + "\x00", alice[:len(alice)-1], "inj_", "inj_" + strings.Repeat("x", 64<<10),
	} {
		refuses(t, tokens, bearer(odd), identity.ReasonUnknown)
	}
	sum := sha256.Sum256([]byte(alice)) // a digest from the tokens file is not a token
	refuses(t, tokens, bearer("inj_"+hex.EncodeToString(sum[:])), identity.ReasonUnknown)
	for _, other := range []string{"", "x", "INJ_" + alice[4:], alice[4:], " " + alice, "eyJhbGciOiJub25lIn0.e30."} {
		passesOn(t, tokens, bearer(other))
	}

	// One token is added and one removed, without a restart.
	write(t, path, bobLine+ciLine)
	require.Eventually(t, func() bool {
		_, err := tokens.Authenticate(t.Context(), bearer(unknown))
		return err == nil
	}, patience, often)
	refuses(t, tokens, bearer(alice), identity.ReasonUnknown)
	accepts(t, tokens, bearer(ci))

	// A wrong edit, with a token in the file, is reported; the previous tokens stay in use.
	write(t, path, aliceLine+"eve "+alice+"\n"+alice+" sha256:"+strings.Repeat("0", 64)+"\n")
	require.Eventually(t, func() bool { return tokens.Err() != nil }, patience, often)
	accepts(t, tokens, bearer(unknown))
	refuses(t, tokens, bearer(alice), identity.ReasonUnknown)
	require.ErrorContains(t, tokens.Err(), "line 2")
	require.ErrorContains(t, tokens.Err(), "line 3")
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "line 3") }, patience, often)
	for _, token := range []string{alice, ci, unknown, gone} {
		require.Empty(t, leaks(out.String()+tokens.Err().Error(), token))
	}

	// So does a file that others can write.
	require.NoError(t, os.Remove(path))
	write(t, path, aliceLine)
	require.Eventually(t, func() bool { return tokens.Err() == nil }, patience, often)
	accepts(t, tokens, bearer(alice))
	require.NoError(t, os.Chmod(path, 0o620))
	require.Eventually(t, func() bool { return tokens.Err() != nil }, patience, often)
	require.ErrorContains(t, tokens.Err(), "0620")
	accepts(t, tokens, bearer(alice))
}

func TestTokensFileMode(t *testing.T) {
	log, _ := harness.Logger()
	path := filepath.Join(t.TempDir(), "tokens")
	token, line := newToken(t, "a")
	write(t, path, line)
	for mode, good := range map[os.FileMode]bool{
		0o600: true, 0o644: true, 0o444: true, 0o660: false, 0o606: false, 0o666: false,
	} {
		require.NoError(t, os.Chmod(path, mode))
		tokens, err := identity.NewTokens(t.Context(), path, log)
		if !good {
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, "go-w")
			continue
		}
		require.NoError(t, err)
		accepts(t, tokens, bearer(token))
	}
	_, err := identity.NewTokens(t.Context(), path+".none", log)
	require.ErrorIs(t, err, secret.ErrInvalid)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTokensRefusesLines(t *testing.T) {
	log, _ := harness.Logger()
	path := filepath.Join(t.TempDir(), "tokens")
	token, line := newToken(t, "a")
	_, other := newToken(t, "b")
	hash := strings.Fields(line)[1]
	load := func(text string) error {
		write(t, path, text)
		_, err := identity.NewTokens(t.Context(), path, log)
		return err
	}
	require.NoError(t, load(""))
	require.NoError(t, load(line+other+"c "+strings.ToUpper(hash[7:])[:0]+"sha256:"+strings.Repeat("AB", 32)))
	for text, why := range map[string]string{
		line + "# x\n" + "a sha256:" + strings.Repeat("0", 64):               "line 3: the same name as in line 1",
		line + other + "c " + hash:                                           "line 3: the same hash as in line 1",
		other + "c sha256:" + strings.ToUpper(hash[7:]) + "\n" + "d " + hash: "line 3: the same hash as in line 2",
		"a":                               "line 1: no hash",
		"a " + hash[:70]:                  "line 1: the hash",
		"a " + hash[7:]:                   "line 1: the hash",
		"a " + hash + "00":                "line 1: the hash",
		"a " + token:                      "line 1: the hash",
		"\n" + token + " " + hash:         "line 2: there is a token",
		"a " + hash + " expires=tomorrow": "line 1: expires",
		"a " + hash + " expires=0001-01-01T00:00:00Z":   "line 1: expires",
		"a " + hash + " expires=":                       "line 1: expires",
		"a " + hash + " until=2030-01-01T00:00:00Z":     "line 1: only expires=RFC3339",
		"a " + hash + " expires=2030-01-01T00:00:00Z x": "line 1: only expires=RFC3339",
		"-a " + hash:                          "line 1: the name",
		"ä " + hash:                           "line 1: the name",
		"a# " + hash:                          "line 1: the name",
		strings.Repeat("a", 129) + " " + hash: "line 1: the name",
		strings.Repeat("x\n", 1000):           "line 20: no hash",
	} {
		t.Run(why, func(t *testing.T) {
			err := load(text)
			require.ErrorIsf(t, err, secret.ErrInvalid, "%q", text)
			require.ErrorContains(t, err, why)
			require.ErrorContains(t, err, path)
			require.Empty(t, leaks(err.Error(), token))
			require.NotContains(t, err.Error(), "line 21")
		})
	}
}

func TestNewToken(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token, line := newToken(t, "n")
		require.False(t, seen[token])
		seen[token] = true
		random, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "inj_"))
		require.NoError(t, err)
		require.Len(t, random, 32)
		require.True(t, strings.HasPrefix(token, "inj_"))
		sum := sha256.Sum256([]byte(token))
		require.Equal(t, "n sha256:"+hex.EncodeToString(sum[:])+"\n", line)
	}
	token, _ := newToken(t, strings.Repeat("n", 128))
	for _, name := range []string{"", "a b", "a\nb", "#", token, strings.Repeat("n", 129)} {
		_, _, err := identity.NewToken(name)
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.Empty(t, leaks(err.Error(), token))
	}
}
