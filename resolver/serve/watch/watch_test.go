package watch_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/internal/harness"
	"inject/resolver/serve/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Minute // of a loaded machine
	often    = 10 * time.Millisecond
)

// number parses a number, so that a bad edit has an error.
func number(b []byte) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, errors.New("no number")
	}
	return n, nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func becomes(t *testing.T, w *watch.Watched[int], want int) {
	t.Helper()
	require.Eventually(t, func() bool { return w.Current() == want }, patience, often)
}

// logs waits until the log has text: a change is in use before it is logged.
func logs(t *testing.T, log *harness.Buffer, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), text) }, patience, often)
}

func TestLoadKeepsCurrent(t *testing.T) {
	t.Parallel()
	log, out := harness.Logger()
	path := filepath.Join(t.TempDir(), "n")
	write(t, path, "1")
	w, err := watch.Load(t.Context(), path, number, log)
	require.NoError(t, err)
	require.Equal(t, 1, w.Current())
	require.NoError(t, w.Err())

	write(t, path, "2") // in place
	becomes(t, w, 2)
	logs(t, out, "[INFO]")
	require.Contains(t, out.String(), path)

	write(t, path+".new", "3") // as editors do
	require.NoError(t, os.Rename(path+".new", path))
	becomes(t, w, 3)

	write(t, path, "three")
	require.Eventually(t, func() bool { return w.Err() != nil }, patience, often)
	require.Equal(t, 3, w.Current())
	require.ErrorContains(t, w.Err(), path+": no number")
	logs(t, out, "[ERROR]")
	require.Contains(t, out.String(), "no number")

	write(t, path, "4") // mended
	becomes(t, w, 4)
	require.NoError(t, w.Err())

	require.NoError(t, os.Remove(path))
	require.Eventually(t, func() bool { return errors.Is(w.Err(), fs.ErrNotExist) }, patience, often)
	require.ErrorContains(t, w.Err(), path)
	require.Equal(t, 4, w.Current())
	write(t, path, "4") // the same is back: nothing is wrong any more
	require.Eventually(t, func() bool { return w.Err() == nil }, patience, often)
	require.Equal(t, 4, w.Current())

	write(t, path, strings.Repeat(" ", watch.MaxSize)+"5")
	require.Eventually(t, func() bool { return w.Err() != nil }, patience, often)
	require.ErrorContains(t, w.Err(), "larger")
	write(t, path, strings.Repeat(" ", watch.MaxSize-1)+"5")
	becomes(t, w, 5)
}

// Kubelet's files are links through ..data, a link that it replaces by a rename.
func TestLoadFollowsKubelet(t *testing.T) {
	t.Parallel()
	log, _ := harness.Logger()
	dir := t.TempDir()
	publish := func(version, text string) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "n"), text)
		require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	publish("..1", "1")
	require.NoError(t, os.Symlink("..data/n", filepath.Join(dir, "n")))
	w, err := watch.Load(t.Context(), filepath.Join(dir, "n"), number, log)
	require.NoError(t, err)
	require.Equal(t, 1, w.Current())
	for i := 2; i < 5; i++ {
		publish(".."+strconv.Itoa(i), strconv.Itoa(i))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, ".."+strconv.Itoa(i-1))))
		becomes(t, w, i)
	}
	require.NoError(t, w.Err())
}

// There are no events for a file behind a link into another folder, or after its folder is
// replaced, so such files are polled.
func TestLoadWithoutEvents(t *testing.T) {
	t.Parallel()
	log, _ := harness.Logger()
	here, there := t.TempDir(), t.TempDir()
	write(t, filepath.Join(there, "n"), "1")
	require.NoError(t, os.Symlink(filepath.Join(there, "n"), filepath.Join(here, "n")))
	w, err := watch.Load(t.Context(), filepath.Join(here, "n"), number, log)
	require.NoError(t, err)
	folder := filepath.Join(t.TempDir(), "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	write(t, filepath.Join(folder, "n"), "1")
	replaced, err := watch.Load(t.Context(), filepath.Join(folder, "n"), number, log)
	require.NoError(t, err)

	write(t, filepath.Join(there, "n"), "2")
	require.NoError(t, os.RemoveAll(folder))
	require.Eventually(t, func() bool { return replaced.Err() != nil }, patience, often)
	require.Equal(t, 1, replaced.Current())
	require.NoError(t, os.Mkdir(folder, 0o700))
	write(t, filepath.Join(folder, "n"), "2")
	becomes(t, w, 2)
	becomes(t, replaced, 2)
}

// The empty file of a writer that truncates first is not taken.
func TestLoadWaitsForTheWriter(t *testing.T) {
	t.Parallel()
	log, _ := harness.Logger()
	path := filepath.Join(t.TempDir(), "n")
	write(t, path, "aaaa")
	var shortest atomic.Int64
	shortest.Store(4)
	w, err := watch.Load(t.Context(), path, func(b []byte) (string, error) {
		shortest.Store(min(shortest.Load(), int64(len(b))))
		return string(b), nil
	}, log)
	require.NoError(t, err)
	for _, text := range []string{"bbbb", "cccc", "dddd"} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.Eventually(t, func() bool { return w.Current() == text }, patience, often)
	}
	require.Equal(t, int64(4), shortest.Load())
}

// A change of the mode counts as one, and a refused file is parsed again.
func TestLoadTriesAgain(t *testing.T) {
	t.Parallel()
	log, out := harness.Logger()
	path := filepath.Join(t.TempDir(), "n")
	write(t, path, "1")
	var good atomic.Bool
	good.Store(true)
	w, err := watch.Load(t.Context(), path, func(b []byte) (int, error) {
		if !good.Load() {
			return 0, errors.New("its other half is missing")
		}
		return number(b)
	}, log)
	require.NoError(t, err)
	good.Store(false)
	require.NoError(t, os.Chmod(path, 0o640))
	require.Eventually(t, func() bool { return w.Err() != nil }, patience, often)
	for range 5 { // further looks say nothing new
		write(t, path+".other", "")
		time.Sleep(150 * time.Millisecond)
	}
	require.Equal(t, 1, strings.Count(out.String(), "its other half is missing"))
	good.Store(true)
	require.Eventually(t, func() bool { return w.Err() == nil }, patience, often)
	require.Equal(t, 1, w.Current())
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	log, _ := harness.Logger()
	dir := t.TempDir()
	bad, large, pipe := filepath.Join(dir, "bad"), filepath.Join(dir, "large"), filepath.Join(dir, "pipe")
	write(t, bad, "x")
	write(t, large, strings.Repeat(" ", watch.MaxSize)+"1")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for path, why := range map[string]string{
		bad: "no number", large: "larger", pipe: "not a regular file", dir: "not a regular file",
		filepath.Join(dir, "none"): "no such file",
	} {
		t.Run(why, func(t *testing.T) {
			_, err := watch.Load(t.Context(), path, number, log)
			require.ErrorContains(t, err, why)
			require.ErrorContains(t, err, path)
		})
	}
	good := filepath.Join(dir, "good")
	write(t, good, "1")
	_, err := watch.Load(t.Context(), good, number, log)
	require.NoError(t, err)
}

// The goroutine ends with its context, and the contents stay. Not parallel: it counts
// goroutines.
func TestLoadEnds(t *testing.T) {
	others := goleak.IgnoreCurrent()
	log, _ := harness.Logger()
	path := filepath.Join(t.TempDir(), "n")
	write(t, path, "1")
	ctx, cancel := context.WithCancel(t.Context())
	w, err := watch.Load(ctx, path, number, log)
	require.NoError(t, err)
	cancel()
	require.NoError(t, goleak.Find(others))
	write(t, path, "2")
	require.Equal(t, 1, w.Current())
}
