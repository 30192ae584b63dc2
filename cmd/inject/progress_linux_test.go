package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec/redact"
)

// Work of unknown length has a bar in which a mark moves. It is drawn on a terminal only,
// fits its width, and is removed at the end.
func TestProgressDuring(t *testing.T) {
	t.Setenv("TERM", "xterm")
	tty, screen, err := pty.Open()
	require.NoError(t, err)
	defer tty.Close()    //nolint:errcheck // read only
	defer screen.Close() //nolint:errcheck // as above
	require.NoError(t, pty.Setsize(screen, &pty.Winsize{Rows: 20, Cols: 40}))
	a := &app{stderr: screen, redactor: redact.New(1), key: redact.New(1)}
	failed := errors.New("failed")
	var shown string
	err = newProgress(a, nil).during("storing 7 secrets", func() error {
		b := make([]byte, 256)
		for !strings.Contains(shown, "] storing 7") || !strings.Contains(shown, "[ ###") {
			n, err := tty.Read(b)
			if err != nil {
				return err
			}
			shown += string(b[:n])
		}
		return failed
	})
	require.Equal(t, failed, err)
	require.True(t, strings.HasPrefix(shown, "\r[###"+strings.Repeat(" ", 21)+"] storing 7 se\x1b[K"), "%q", shown)
	for line := range strings.SplitSeq(shown, "\x1b[K") {
		require.LessOrEqual(t, len(line), 40)
	}
	b := make([]byte, 256)
	for !strings.HasSuffix(shown, "\r\x1b[K") {
		n, err := tty.Read(b)
		require.NoError(t, err)
		shown += string(b[:n])
	}

	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close() //nolint:errcheck // as above
	a.stderr = w
	require.NoError(t, newProgress(a, nil).during("storing 7 secrets", func() error { return nil }))
	require.NoError(t, w.Close())
	none, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, none)
	goleak.VerifyNone(t)
}
