package redact_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	encoding "encoding/pem"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/exec/redact"
)

// A private key is masked however its line ends were changed before it was stored, and however
// they are changed when it is printed.
func TestKeysInAnyLayout(t *testing.T) {
	body := func(key string) string {
		lines := strings.Split(strings.TrimSpace(key), "\n")
		return strings.Join(lines[1:len(lines)-1], "")
	}
	by := func(newline string) func(string) string {
		return func(key string) string { return strings.ReplaceAll(key, "\n", newline) }
	}
	inJSON := func(value any) string {
		b, err := json.Marshal(value)
		require.NoError(t, err)
		return string(b)
	}
	layouts := map[string]func(key string) string{
		"as it is":          by("\n"),
		`\n`:                by(`\n`),
		`\\n`:               by(`\\n`),
		`\r\n`:              by(`\r\n`),
		`\r`:                by(`\r`),
		"CR LF":             by("\r\n"),
		"spaces":            by(" "),
		"commas":            by(","),
		"one line":          by(""),
		"indented":          by("\n    "),
		"JSON":              func(key string) string { return inJSON(map[string]string{"private_key": key}) },
		"JSON in JSON":      func(key string) string { return inJSON(inJSON(key)) },
		"slashes escaped":   func(key string) string { return strings.ReplaceAll(inJSON(key), "/", `\/`) },
		"HTML-safe JSON":    func(key string) string { return strings.ReplaceAll(inJSON(key), "=", `\u003d`) },
		"percent, a path":   url.PathEscape,
		"percent, a query":  url.QueryEscape,
		"percent, one line": func(key string) string { return url.QueryEscape(by("")(key)) },
		"YAML": func(key string) string {
			return "key: |\n  " + strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n  ") + "\n"
		},
	}
	printed := maps.Clone(layouts)
	for _, width := range []int{64, 70, 76} {
		lines := func(key string) string { return wrap(body(key), width) }
		name := fmt.Sprint("lines of ", width)
		printed[name] = lines
		printed[name+", JSON"] = func(key string) string { return inJSON(lines(key)) }
		printed[name+", HTML-safe JSON"] = func(key string) string {
			return strings.NewReplacer("=", `\u003d`, "/", `\/`).Replace(inJSON(lines(key)))
		}
		printed[name+", percent"] = func(key string) string { return url.QueryEscape(lines(key)) }
	}

	big, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	_, small, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for kind, private := range map[string]any{"RSA": big, "Ed25519": small} {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		require.NoError(t, err)
		key := string(encoding.EncodeToMemory(&encoding.Block{Type: "PRIVATE KEY", Bytes: der}))
		for stored, store := range layouts {
			t.Run(kind+", "+stored, func(t *testing.T) {
				r := redact.New(6, redact.Pattern{Name: "K", Value: []byte(store(key))})
				require.Empty(t, r.Reduced())
				for name, print := range printed {
					text := print(key)
					require.GreaterOrEqual(t, len(longestShared(text, body(key))), 12, "there is no key in it")
					out := masked(t, r, "<"+text+">")
					// The last line of a layout may be too short to be a form.
					shared := longestShared(out, body(key))
					require.Less(t, len(shared), 8, "printed as %s: %s", name, out)
				}
			})
		}
	}
}

// longestShared returns the longest part of text that is in key.
func longestShared(text, key string) (longest string) {
	for i := range text {
		for n := len(longest) + 1; i+n <= len(text) && strings.Contains(key, text[i:i+n]); n++ {
			longest = text[i : i+n]
		}
	}
	return longest
}
