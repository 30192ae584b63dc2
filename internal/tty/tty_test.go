package tty_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"inject/internal/tty"
)

func TestIs(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // only asked what it is
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close() //nolint:errcheck // only asked what it is
	master, slave, err := pty.Open()
	require.NoError(t, err)
	defer master.Close() //nolint:errcheck // only asked what it is
	defer slave.Close()  //nolint:errcheck // only asked what it is
	master2, gone, err := pty.Open()
	require.NoError(t, err)
	defer gone.Close() //nolint:errcheck // only asked what it is
	require.NoError(t, master2.Close())
	for _, c := range []struct {
		name         string
		file         *os.File
		want, hungUp bool
	}{
		{"nil", nil, false, false},
		{"regular file", file, false, false},
		{"character device", null, false, false},
		{"terminal", slave, true, false},
		{"terminal that is gone", gone, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, tty.Is(c.file))
			require.Equal(t, c.hungUp, tty.HungUp(c.file))
		})
	}
}
