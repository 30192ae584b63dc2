package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// make install puts working files below a prefix: the programs run, man shows a page for each
// command, and three shells load the completions.
func TestInstall(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds both programs; make test-long does")
	}
	harness.Need(t, "make", "man")
	dir := t.TempDir()
	install := exec.Command("make", "install", "DESTDIR="+dir, "PREFIX=/usr")
	install.Dir = "../.."
	out, err := install.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	require.Contains(t, string(out), "-tags "+tags+" ", "as the tests build it")
	program, err := os.Stat(filepath.Join(dir, "usr/bin/inject"))
	require.NoError(t, err)
	require.Less(t, program.Size(), int64(16_000_000), "each image of a task has it")

	share := filepath.Join(dir, "usr/share")
	for _, name := range []string{"inject", "injectd"} {
		t.Run(name, func(t *testing.T) {
			version, err := exec.Command(filepath.Join(dir, "usr/bin", name), "version").Output()
			require.NoError(t, err)
			require.Contains(t, string(version), name+" ")

			require.FileExists(t, share+"/zsh/site-functions/_"+name)
			require.FileExists(t, share+"/fish/vendor_completions.d/"+name+".fish")
			completion := share + "/bash-completion/completions/" + name
			require.NoError(t, exec.Command("bash", "-n", completion).Run())
			text, err := os.ReadFile(completion)
			require.NoError(t, err)
			require.Contains(t, string(text), "__start_"+name)
		})
	}
	pages, err := filepath.Glob(share + "/man/man1/*.1")
	require.NoError(t, err)
	require.Greater(t, len(pages), 20)
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			cmd := exec.Command("man", "-l", page)
			cmd.Env = append(os.Environ(), "MANWIDTH=100", "LC_ALL=C.UTF-8", "MANPAGER=cat")
			var warnings strings.Builder
			cmd.Stderr = &warnings
			text, err := cmd.Output()
			require.NoError(t, err)
			require.Empty(t, warnings.String())
			for _, section := range []string{"NAME", "SYNOPSIS", "OPTIONS"} {
				require.Contains(t, "\n"+string(text), "\n"+section+"\n")
			}
		})
	}
}
