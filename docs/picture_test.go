package docs_test

import (
	"encoding/xml"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPicture checks that the tutorial says in words what its picture shows. The picture itself is compared with
// what a cluster shows by deploy/e2e/tests/upgrade.sh.
func TestPicture(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("kubernetes.svg")
	require.NoError(t, err)
	var picture struct {
		Text []string `xml:"text"`
	}
	require.NoError(t, xml.Unmarshal(text, &picture))
	require.Greater(t, len(picture.Text), 10)
	words := strings.Join(readPage(t, "docs/tutorial-kubernetes.md").lines, "\n")
	words = strings.ReplaceAll(words, `\|`, "|") // in a table
	for _, line := range picture.Text {
		require.Contains(t, words, strings.TrimSpace(strings.TrimPrefix(line, "$ ")))
	}
}
