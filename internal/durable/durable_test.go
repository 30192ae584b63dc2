package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/durable"
)

// What a power cut leaves of these calls is tested where they matter, in package sealed, by
// recording a process and rebuilding every state of its disk.

func TestMkdirAll(t *testing.T) {
	t.Cleanup(func() { unix.Umask(0o022) })
	unix.Umask(0o077)
	root := t.TempDir()
	there := filepath.Join(root, "there")
	require.NoError(t, os.Mkdir(there, 0o750))
	below := filepath.Join(there, "a", "b")
	for range 2 { // the second time all of it exists
		require.NoError(t, durable.MkdirAll(below, 0o755))
		for dir, mode := range map[string]fs.FileMode{below: 0o755, filepath.Dir(below): 0o755, there: 0o700} {
			info, err := os.Stat(dir)
			require.NoError(t, err)
			require.Equal(t, mode|fs.ModeDir, info.Mode(), dir)
		}
	}
	file := filepath.Join(root, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, durable.MkdirAll(filepath.Join(file, "below"), 0o755))
}

func TestSync(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, durable.Sync(dir))
	require.ErrorIs(t, durable.Sync(filepath.Join(dir, "absent")), fs.ErrNotExist)
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	path := filepath.Join(dir, "file")
	hold := func(text string) func(string) error {
		return func(temp string) error {
			require.NoFileExists(t, path)
			return durable.WriteNew(temp, func(f *os.File) error { _, err := f.WriteString(text); return err })
		}
	}
	requireOnly := func(names ...string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		found := []string{}
		for _, e := range entries {
			found = append(found, e.Name())
		}
		require.ElementsMatch(t, names, found)
	}

	failed := errors.New("failed")
	require.ErrorIs(t, durable.Create(path, func(temp string) error { return errors.Join(hold("half")(temp), failed) }),
		failed)
	requireOnly()

	require.NoError(t, durable.Create(path, hold("whole")))
	requireOnly("file")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())

	err = durable.Create(path, func(temp string) error { return os.WriteFile(temp, []byte("other"), 0o600) })
	require.ErrorIs(t, err, fs.ErrExist)
	requireOnly("file")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "whole", string(b))
}
