package printable_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/printable"
)

func TestPrintable(t *testing.T) {
	for _, c := range []struct {
		name, s  string
		is       bool
		quoted   string
		shown    string
		shownCut string // after 4 bytes
	}{
		{"empty", "", true, "", "", ""},
		{"plain", "a b", true, "a b", "a b", "a b"},
		{"long", "abcdef", true, "abcdef", "abcdef", "abcd…"},
		{"not ASCII", "é→", true, "é→", "é→", "é\ufffd…"},
		{"a quote", `a"b`, true, `"a\"b"`, `a"b`, `a"b`},
		{"a backslash", `a\b`, true, `"a\\b"`, `a\b`, `a\b`},
		{"a line end", "a\nb", false, `"a\nb"`, `a\nb`, `a\nb`},
		{"a tab", "a\tb", false, `"a\tb"`, `a\tb`, `a\tb`},
		{"an escape", "\x1b[31m", false, `"\x1b[31m"`, `\x1b[31m`, `\x1b[31…`},
		{"text from right to left", "a\u202eb", false, `"a\u202eb"`, `a\u202eb`, `a\u202e…`},
		{"no UTF-8", "a\xffb", false, `"a\xffb"`, "a\ufffdb", "a\ufffdb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.is, printable.Is(c.s))
			require.Equal(t, c.quoted, printable.Name(c.s))
			require.Equal(t, c.shown, printable.Text(c.s, 100))
			require.Equal(t, c.shownCut, printable.Text(c.s, 4))
			require.True(t, printable.Is(printable.Name(c.s)))
			require.True(t, printable.Is(printable.Text(c.s, 4)))
		})
	}
}
