package terminal

import (
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A terminal that does not know the external mode echoes in it. Here one without that mode stands for
// it: its echo is noticed, so that text is not echoed twice there.
func TestEchoCanStop(t *testing.T) {
	ours, theirs, err := pty.Open()
	require.NoError(t, err)
	defer ours.Close()   //nolint:errcheck // only tried
	defer theirs.Close() //nolint:errcheck // only tried
	master, program := int(ours.Fd()), int(theirs.Fd())
	require.NoError(t, unix.SetNonblock(master, true))
	before, err := modes(program)
	require.NoError(t, err)
	for range 100 {
		require.True(t, echoCanStop(master, program))
		after, err := modes(program)
		require.NoError(t, err)
		require.Equal(t, before, after)

		raw := before
		raw.Lflag = raw.Lflag&^unix.ICANON | unix.ECHO
		require.NoError(t, setModes(program, &raw))
		require.True(t, echoesKey(master, program))
		require.NoError(t, setModes(program, &before))
	}
}

// Where the echo cannot stop, the person's terminal does not echo while we are attached, and the
// program's echo stays what the program wants.
func TestWithoutExternalMode(t *testing.T) {
	ours, theirs, err := pty.Open()
	require.NoError(t, err)
	defer ours.Close()   //nolint:errcheck // only tried
	defer theirs.Close() //nolint:errcheck // only tried
	term, err := New(theirs, func(unix.Signal) {})
	require.NoError(t, err)
	term.both = bothHave(false)
	require.NoError(t, term.Attach())
	outer, err := modes(int(ours.Fd()))
	require.NoError(t, err)
	require.Zero(t, outer.Lflag&(unix.ECHO|unix.EXTPROC))
	require.NotZero(t, outer.Oflag&unix.OPOST)
	term.followModes(true)
	inner, err := modes(term.master)
	require.NoError(t, err)
	require.NotZero(t, inner.Lflag&unix.ECHO)
	term.Close()
	require.NoError(t, term.Program().Close())
	after, err := modes(int(ours.Fd()))
	require.NoError(t, err)
	require.NotZero(t, after.Lflag&unix.ECHO)
}
