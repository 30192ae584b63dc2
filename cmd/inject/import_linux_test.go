package main_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An import stores all secrets of a file on the server in one call, or none.
func TestImportOnServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, true)
	first, second := strings.ReplaceAll(awkward(), "'", ""), strings.ReplaceAll(awkward(), "'", "")
	file := fmt.Sprintf("A='%s'\nexport B='%s' # a comment\nEMPTY=\n", first, second)
	got := s.inject(
		file,
		nil,
		s.as("platform", "create", "secret", "--from-env-file", "-", "-p", "p")...).ok().without(
		first,
		second,
	)
	require.Equal(t, "A created\nB created\nEMPTY created\n", got.stdout)
	require.Empty(t, got.stderr)
	s.inject("", nil, s.as("task", "run", "--secret", "A", "--secret", "B", "--secret", "EMPTY=E", "--",
		"sh", "-c", `printf %s "$A" > "$1/a"; printf %s "$B" > "$1/b"; printf %s "$E" > "$1/e"`, "sh", s.dir)...).ok()
	for name, want := range map[string]string{"a": first, "b": second, "e": ""} {
		b, err := os.ReadFile(s.path(name))
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}

	// Secrets that exist already, without and with a wrong line in the file.
	file = fmt.Sprintf("NEW=new\nB='%s'\nA='%s'\n", first, first)
	refused := []string{
		"inject: create B at project p: secret already exists\n",
		"inject: create A at project p: secret already exists\n",
		"inject: nothing was stored\nhint: --upsert replaces the values of those that exist\n",
	}
	s.inject(
		file,
		nil,
		s.as("platform", "create", "secret", "--from-env-file", "-", "-p", "p")...).failed(
		refused...).without(
		first,
	)
	s.inject(file+"NEW=twice\n", nil, s.as("platform", "create", "secret", "--from-env-file", "-", "-p", "p")...).
		failed(append(refused, // one value has a line end, so this is line 6
			"inject: stdin, line 6: NEW: invalid: line 1 has the same key\n")...).without(first)
	names := s.as("platform", "get", "secret", "-o", "name")
	require.Equal(t, "A -p p\nB -p p\nEMPTY -p p\n", s.inject("", nil, names...).ok().stdout)

	// More secrets than fit in one request, and a caller that may not create them.
	large := ""
	for i := range 5 {
		large += fmt.Sprintf("LARGE%d=%s\n", i, strings.Repeat("v", 1<<20))
	}
	s.inject(large, nil, s.as("platform", "create", "secret", "--from-env-file", "-")...).failed(
		"bytes (at most 4194304)",
		"hint: send less at a time: a server takes no larger request\n",
		"inject: nothing was stored\n",
	)
	s.inject(
		file,
		nil,
		s.as("one-key", "create", "secret", "--from-env-file", "-")...).failed(
		"access denied",
		"inject: nothing was stored\n",
	).without(
		first,
	)
	s.stop()
	s.inject(file, nil, s.as("platform", "create", "secret", "--from-env-file", "-")...).failed(
		"store unavailable",
		"inject: either all of the secrets were stored or none\nhint: inject get secret lists what is there\n",
	).without(first)
}
