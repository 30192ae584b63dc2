package outputs_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/injector/outputs"
)

// A file that is open for writing, however, is left as it is; one that is only read is masked.
func TestMaskOpenFile(t *testing.T) {
	text := "token " + value + "\n"
	for _, c := range []struct {
		name string
		open func(t *testing.T, path string) func()
		err  error
	}{
		{"for appending", opened(os.O_WRONLY | os.O_APPEND), outputs.ErrWritten},
		{"for reading and writing", opened(os.O_RDWR), outputs.ErrWritten},
		{"by another name", func(t *testing.T, path string) func() {
			t.Helper()
			require.NoError(t, os.Link(path, path+" 2"))
			end := opened(os.O_WRONLY)(t, path+" 2")
			require.NoError(t, os.Remove(path+" 2"))
			return end
		}, outputs.ErrWritten},
		{"as memory", func(t *testing.T, path string) func() {
			t.Helper()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			b, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_WRITE, unix.MAP_SHARED)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			return func() { require.NoError(t, unix.Munmap(b)) }
		}, outputs.ErrWritten},
		{"for reading", opened(os.O_RDONLY), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log")
			write(t, path, text)
			end := c.open(t, path)
			err := scanner().Mask(t.Context(), outputs.File{Path: path})
			only(t, dir, "log")
			if c.err == nil {
				require.NoError(t, err)
				end()
				require.Equal(t, "token [REDACTED:K]\n", read(t, path))
				return
			}
			require.ErrorIs(t, err, c.err)
			require.Equal(t, text, read(t, path))
			end()
			require.NoError(t, scanner().Mask(t.Context(), outputs.File{Path: path}))
			require.Equal(t, "token [REDACTED:K]\n", read(t, path))
		})
	}
}

// opened returns a function that opens a file with flags, and returns one that closes it.
func opened(flags int) func(t *testing.T, path string) func() {
	return func(t *testing.T, path string) func() {
		t.Helper()
		f, err := os.OpenFile(path, flags, 0)
		require.NoError(t, err)
		return func() { require.NoError(t, f.Close()) }
	}
}

// A process that opens the file while it is masked waits, and what it writes is in the file.
func TestMaskFileOpenedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, "token "+value+"\n")
	wrote := make(chan error)
	s, begun := scanner(), false
	s.Read = func(int) {
		if begun {
			return
		}
		begun = true
		go func() { wrote <- add(path, "more "+value+"\n") }()
		for end := time.Now().Add(time.Minute); !breaking(t, path); time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(end), "it was opened while it was masked")
		}
	}
	require.ErrorIs(t, s.Mask(t.Context(), outputs.File{Path: path}), outputs.ErrWritten)
	require.NoError(t, <-wrote)
	require.Equal(t, "token "+value+"\nmore "+value+"\n", read(t, path))
	only(t, dir, "log")
	require.NoError(t, scanner().Mask(t.Context(), outputs.File{Path: path}))
	require.Equal(t, "token [REDACTED:K]\nmore [REDACTED:K]\n", read(t, path))
}

// breaking reports whether the system lists a lease of the file that another process breaks, as
// proc_locks(5) has it: "1: LEASE  BREAKING  READ PID MAJOR:MINOR:INODE 0 EOF".
func breaking(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	locks, err := os.ReadFile("/proc/locks")
	require.NoError(t, err)
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "BREAKING") && strings.Contains(line, fmt.Sprintf(":%d ", st.Ino)) {
			return true
		}
	}
	return false
}

func add(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// A program opens the log for each line, as fast as it can, while the log is masked again and again.
// No line is lost.
func TestMaskLosesNoLine(t *testing.T) {
	lines := 3000
	if testing.Short() {
		lines = 500
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, "")
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < lines && err == nil; i++ {
			err = add(path, fmt.Sprintf("%d %s\n", i, value))
		}
		done <- err
	}()
	masked, refused := 0, 0
	for running := true; running; {
		select {
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		err := scanner().Mask(t.Context(), outputs.File{Path: path})
		if err == nil {
			masked++
			continue
		}
		refused++
		if !errors.Is(err, outputs.ErrWritten) {
			require.ErrorContains(t, err, "it changed while it was being masked")
		}
	}
	t.Logf("masked %d times, refused %d", masked, refused)
	require.Positive(t, masked)
	n := 0
	for s := bufio.NewScanner(strings.NewReader(read(t, path))); s.Scan(); n++ {
		require.Equal(t, fmt.Sprintf("%d [REDACTED:K]", n), s.Text())
	}
	require.Equal(t, lines, n)
	only(t, dir, "log")
}
