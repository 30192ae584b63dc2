package secret_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"inject/resolver/secret"
)

func TestPlain(t *testing.T) {
	for name, text := range map[string]string{
		"a project":          "my-project_2.x",
		"an address":         "team+web:eu@example",
		"accents":            "caf\u00e9",
		"a combining accent": "cafe\u0301",
		"Cyrillic":           "\u043f\u0440\u043e\u0435\u043a\u0442-1",
		"Japanese":           "\u6771\u4eac",
		"none":               "",
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, secret.PlainName(text))
			require.NoError(t, secret.Scope{Org: "flyte", Project: text}.Plain())
		})
	}
	for name, text := range map[string]string{
		"a zero-width space":            "web\u200b",
		"a zero-width joiner":           "w\u200deb",
		"a soft hyphen":                 "w\u00adeb",
		"a byte order mark":             "\ufeffweb",
		"right to left":                 "web\u202egnp",
		"an isolate":                    "\u2066web\u2069",
		"a tag":                         "web\U000e0061",
		"a Hangul filler":               "web\u3164",
		"a grapheme joiner":             "w\u034feb",
		"a variation selector":          "web\ufe0f",
		"a blank pattern":               "web\u2800",
		"private use":                   "web\ue000",
		"not assigned":                  "web\u0378",
		"white space":                   "we b",
		"full width":                    "\uff57eb",
		"a wildcard":                    "*",
		"a capture":                     "{project}",
		"Latin with Cyrillic":           "w\u0435b",
		"Latin with Greek":              "web\u03bf",
		"Latin with Cyrillic, as parts": "web-\u0430",
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, secret.PlainName(text), secret.ErrInvalid)
			for _, at := range []secret.Scope{
				{Org: text}, {Org: "flyte", Domain: text}, {Org: "flyte", Project: text},
			} {
				require.ErrorIs(t, at.Plain(), secret.ErrInvalid)
			}
		})
	}
}
