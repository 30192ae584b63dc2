package watch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

// A change is taken only when it stays the same, since it may be a partly written file.
func TestCheckTakesWhatStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write("one")
	k := &keeper[string]{
		Watched: &Watched[string]{}, path: path, log: hclog.NewNullLogger(),
		parse: func(b []byte) (string, error) { return string(b), nil },
	}
	k.last, _, _ = read(path)
	k.state.Store(&state[string]{value: "one"})
	require.False(t, k.check())

	write("")
	require.True(t, k.check())
	write("tw")
	require.True(t, k.check())
	write("two")
	require.True(t, k.check())
	require.Equal(t, "one", k.Current())
	require.False(t, k.check())
	require.Equal(t, "two", k.Current())

	write("three")
	require.True(t, k.check())
	write("two") // as it was
	require.False(t, k.check())
	write("three")
	require.True(t, k.check())
	require.Equal(t, "two", k.Current())

	require.NoError(t, os.Remove(path))
	require.True(t, k.check())
	require.NoError(t, k.Err())
	require.False(t, k.check())
	require.ErrorIs(t, k.Err(), os.ErrNotExist)
	require.Equal(t, "two", k.Current())
}
