package harness_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
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

// noted is a test that notes what it ran, and its end.
type noted struct {
	testing.TB

	failed string
	end    func()
}

func (n *noted) Cleanup(f func())             { n.end = f }
func (n *noted) Errorf(f string, args ...any) { n.failed = fmt.Sprintf(f, args...) }
func (n *noted) Failed() bool                 { return n.failed != "" }

// A test of a real client fails while the page does not have its row, and writes it when told to.
func TestRan(t *testing.T) {
	const head = "# Page\n\n| a | b | c | d |\n|---|---|---|---|\n"
	root := t.TempDir()
	page := filepath.Join(root, "docs/reference/compatibility.md")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs/reference"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(root, "pkg"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.mod"), nil, 0o600))
	require.NoError(t, os.WriteFile(page, []byte(head), 0o600))
	t.Chdir(filepath.Join(root, "pkg"))
	t.Setenv("INJECT_TEST_SDK", "")
	run := func(client, version, what, failed string) string {
		n := &noted{TB: t, failed: failed}
		harness.Ran(n, client, version, what)
		n.end()
		return n.failed
	}
	t.Setenv("INJECT_TEST_UPDATE", "")
	require.Contains(t, run("b", "1", "all", ""), "does not have this row")
	t.Setenv("INJECT_TEST_UPDATE", "1")
	require.Equal(t, "another", run("c", "1", "all", "another"), "a failed test has no row")
	var wg sync.WaitGroup
	for _, version := range []string{"1", "2"} {
		for _, client := range []string{"b", "a"} {
			wg.Go(func() { run(client, "1", "all of "+version, "") })
		}
	}
	wg.Wait()
	run("d", "9.1*", "all", "")
	run("a", "2", "all of 2", "")
	t.Setenv("INJECT_TEST_UPDATE", "")
	got, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, head+`| a | 1 | all of 1 | `+"`pkg TestRan` |\n"+`| a | 2 | all of 2 | `+"`pkg TestRan` |\n"+
		`| b | 1 | all of 1 | `+"`pkg TestRan` |\n"+`| b | 1 | all of 2 | `+"`pkg TestRan` |\n"+
		`| d | 9.1* | all | `+"`pkg TestRan` |\n", string(got))
	require.Empty(t, run("a", "2", "all of 2", ""))
	require.Empty(t, run("d", "9.2*", "all", ""), "its version is not pinned")
	require.Contains(t, run("a", "1", "all of 2", ""), "does not have this row")
	require.Contains(t, run("d", "9.1", "all", ""), "does not have this row")
}
