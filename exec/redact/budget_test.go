package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
	"inject/exec/redact/redacttest"
)

const mebibyte = 1 << 20

// One value, however large and awkward, takes at most 16 MiB. The value itself is masked all the
// same, and it is named if it lost a form.
func TestMemoryOfOneValue(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 0))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32()) | 1 // no NUL and no line end, so that it is one line
		}
		b[0], b[n-1] = 'A', 'z'
		return b
	}
	fields := map[string]string{}
	for i := range 20_000 {
		fields[fmt.Sprintf("password-%d", i)] = fmt.Sprintf(`S3cret'"<&>-%08d`, i)
	}
	hostile, err := json.Marshal(fields)
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		value   []byte
		reduced bool
	}{
		{"a token", []byte("ghp_Ab12Cd34Ef56Gh78Ij90"), false},
		{"2 KiB of bytes", noise(2 << 10), false},
		{"40 KiB of bytes", noise(40 << 10), true},
		{"64 KiB of bytes", noise(64 << 10), true},
		{"24 KiB of different lines", redacttest.Text("A", 24<<10, nil, 1), true},
		{"40 KiB of different lines", redacttest.Text("A", 40<<10, nil, 1), true},
		{"1 MiB of bytes", noise(mebibyte), true},
		{"1 MiB of letters", redacttest.Text("D1", mebibyte, nil, 1), true},
		{"1 MiB of lines", bytes.Repeat([]byte("Abcdefg1 and more\n"), mebibyte/18), true},
		{"1 MiB of different lines", redacttest.Text("A", mebibyte, nil, 1), true},
		{"1 MiB of quotes", bytes.Repeat([]byte(`'"\`), mebibyte/3), true},
		{"1 MiB of bytes that are not UTF-8", bytes.Repeat([]byte{0xff}, mebibyte), true},
		{"20 000 passwords in JSON", hostile, true},
	} {
		if testing.Short() && len(c.value) > 64<<10 && c.name != "1 MiB of bytes" {
			continue // each takes a minute with the race detector
		}
		t.Run(c.name, func(t *testing.T) {
			r := redact.New(6, redact.Pattern{Name: "K", Value: c.value})
			require.Equal(t, c.reduced, slices.Contains(r.Reduced(), "K"))
			require.LessOrEqual(t, r.Size(), 16*mebibyte)
			text := string(bytes.TrimSpace(c.value))
			if masked(t, r, "<"+text+">") != "<[REDACTED:K]>" {
				t.Error("the value is not masked") // not shown: it is a megabyte
			}
			if len(text) > 64<<10 {
				return
			}
			for kind, encoded := range map[string]string{
				"base64":               base64.StdEncoding.EncodeToString(c.value),
				"base64 for URLs":      base64.RawURLEncoding.EncodeToString(c.value),
				"base64 behind a user": base64.StdEncoding.EncodeToString(append([]byte("us:"), c.value...))[4:],
				"hexadecimal":          hex.EncodeToString([]byte(text)),
				"capital hexadecimal":  strings.ToUpper(hex.EncodeToString([]byte(text))),
			} {
				if masked(t, r, "<"+encoded+">") != "<[REDACTED:K]>" {
					t.Errorf("%s is not masked", kind)
				}
			}
		})
	}
}

// All values together take at most 64 MiB. Small values beside large ones lose nothing that
// they need not lose, and each is masked as it is.
func TestMemoryOfAllValues(t *testing.T) {
	many := 100_000
	if testing.Short() {
		many = 5_000 // three times what fits
	}
	for _, c := range []struct {
		name    string
		n, size int // of the values, and their length in bytes; 0 for tokens and passwords
		reduced bool
	}{
		{"1000 tokens", 1000, 0, false},
		{"many tokens", many, 0, true},
		{"1000 values of 1 KiB", 1000, 1 << 10, true},
		{"40 values of 64 KiB", 40, 64 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed := rand.Uint64()
			random := rand.New(rand.NewPCG(seed, 0))
			values := redacttest.Values(c.n, seed)
			if c.size > 0 {
				for i := range values {
					b := make([]byte, c.size)
					for j := range b {
						b[j] = '!' + byte(random.IntN(94))
					}
					values[i] = b
				}
			}
			var patterns []redact.Pattern
			for i, v := range values {
				patterns = append(patterns, redact.Pattern{Name: fmt.Sprint("K", i), Value: v})
			}
			patterns = append(patterns, redact.Pattern{Name: "small", Value: []byte("its 'quoted' w0rd")})
			r := redact.New(6, patterns...)
			require.LessOrEqual(t, r.Size(), 64*mebibyte)
			require.Equal(t, c.reduced, len(r.Reduced()) > 0)
			if c.size > 0 {
				require.NotContains(t, r.Reduced(), "small")
			}
			for i := range 20 {
				i *= len(values) / 20
				want := fmt.Sprintf("<[REDACTED:K%d]>", i)
				require.Equal(t, want, masked(t, r, "<"+string(values[i])+">"), "seed %d", seed)
			}
			require.Equal(t, "<[REDACTED:small]>", masked(t, r, `<its 'quoted' w0rd>`))
		})
	}
}

// The page about masking has all kinds, in the order in which they are kept.
func TestKindsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/explanation/masking.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(page), "## Forms\n\n| kind | what is found |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var kinds []string
	for row := range strings.Lines(table) {
		kind, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
		kinds = append(kinds, strings.TrimSuffix(kind, ", base64url"))
	}
	require.Equal(t, redact.Order, kinds)

	for _, file := range []string{"forms/forms.go", "parts/parts.go"} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		constants := regexp.MustCompile(`(?m)^\tKind\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
		require.Greater(t, len(constants), 3)
		for _, c := range constants {
			if c[1] != "base64url" {
				require.Contains(t, kinds, c[1])
			}
		}
	}
}
