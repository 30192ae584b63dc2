package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCompatibility checks that each row of the compatibility page is written by a test: the test
// exists, and its package calls harness.Ran with the row's client and description. So no row is left
// when its test goes.
func TestCompatibility(t *testing.T) {
	t.Parallel()
	const path = "docs/reference/compatibility.md"
	text := strings.Join(readPage(t, path).lines, "\n")
	_, table, ok := strings.Cut(text, "\n|---|---|---|---|\n")
	require.True(t, ok, "%s has no table", path)
	rows := strings.Split(strings.TrimSpace(table), "\n")
	require.Greater(t, len(rows), 8)
	of := regexp.MustCompile("^\\| (.+) \\| (.+) \\| (.+) \\| `([\\w/]+) (Test\\w+)` \\|$")
	for _, row := range rows {
		cells := of.FindStringSubmatch(row)
		require.NotNil(t, cells, "%s: not a row of a test: %s", path, row)
		tests, err := filepath.Glob(filepath.Join(root, cells[4], "*_test.go"))
		require.NoError(t, err)
		var all strings.Builder // of the package, because a function of another file may call harness.Ran
		for _, file := range tests {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			all.Write(b)
		}
		source := all.String()
		exists := strings.Contains(source, "\nfunc "+cells[5]+"(t *testing.T) {\n")
		calls := strings.Contains(source, "harness.Ran(") &&
			strings.Contains(source, strconv.Quote(cells[1])) && strings.Contains(source, strconv.Quote(cells[3]))
		require.True(t, exists, "%s: there is no such test: %s", path, row)
		require.True(t, calls, "%s: no test writes it: %s", path, row)
	}
}
