package harness_test

import (
	"encoding/base64"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// The search finds a value however a program wrote it, and nothing in a clean text.
func TestFindLeak(t *testing.T) {
	const value = `awk"ward\ välue+/?&=` + "\n\x00tail that is long enough"
	values := map[string]string{"v": value}
	for name, text := range map[string]string{
		"raw":             value,
		"its tail":        value[len(value)-20:],
		"base64":          base64.StdEncoding.EncodeToString([]byte("k=" + value + "; rest")),
		"base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte("k" + value)),
		"hexadecimal":     hex.EncodeToString([]byte(value)),
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, harness.FindLeak(map[string]string{"log": "before " + text + " after"}, values),
				"log holds the value v")
		})
	}
	require.NoError(t, harness.FindLeak(map[string]string{"log": "nothing of it"}, values))
}

// stopped is a test that a failure ends.
type stopped struct{ err error }

func (s *stopped) Fatal(args ...any) { s.err, _ = args[0].(error); panic(s) }

// A PKI that cannot be made ends the test that asked for it.
func TestAuthorityFails(t *testing.T) {
	s := &stopped{}
	require.Panics(t, func() { harness.NewAuthority(s, "/dev/null/pki") })
	require.Error(t, s.err)
}
