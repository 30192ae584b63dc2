package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/sealed"
	"inject/resolver/store/sealed/disktest"
	"inject/resolver/store/storetest"
)

// runChild makes this test binary one of the child processes of the tests, if the environment says
// so.
func runChild() {
	runPlugin()
	if dir := os.Getenv("SEALED_TEST_WRITER"); dir != "" {
		from, _ := strconv.Atoi(os.Getenv("SEALED_TEST_FROM"))
		to, _ := strconv.Atoi(os.Getenv("SEALED_TEST_TO"))
		err := error(nil)
		if os.Getenv("SEALED_TEST_REWRITE") != "" {
			sealed.RewriteInParts(50)
			err = rewriter(dir)
		}
		if err == nil {
			err = writer(dir, from, to)
		}
		if err == nil && os.Getenv("SEALED_TEST_REWRAP") != "" {
			err = rewrapper(dir)
		}
		if from := os.Getenv("SEALED_TEST_RESTORE"); err == nil && from != "" {
			err = copier(dir, from)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// step returns the nth change of a fixed sequence: 40 secrets are created, then updated, then
// deleted, round after round.
func step(n int) (ref secret.Ref, round int, value []byte) {
	const secrets = 40
	i := n % secrets
	ref = secret.Ref{Scope: storetest.Scopes[i%len(storetest.Scopes)], Key: fmt.Sprintf("K%d", i)}
	return ref, n / secrets % 3, bytes.Repeat(fmt.Appendf(nil, "%d of %v,", n, ref), 1+n%50)
}

// stateAfter returns the content of the store after the first n steps.
func stateAfter(n int) map[secret.Ref][]byte {
	state := map[secret.Ref][]byte{}
	for i := range n {
		ref, round, value := step(i)
		state[ref] = value
		if round == 2 {
			state[ref] = nil
		}
	}
	return state
}

// writer makes the steps from one number up to another. It acknowledges each on stdout after the
// store has made it.
func writer(dir string, from, to int) error {
	for n := from; n < to; {
		s, err := sealed.Open(ctx, options(dir))
		if err != nil {
			return err
		}
		for range 20 {
			ref, round, value := step(n)
			switch round {
			case 0:
				err = s.Create(ctx, ref, secret.NewValue(value), store.Regular)
			case 1:
				err = s.Update(ctx, ref, secret.NewValue(value))
			case 2:
				err = s.Delete(ctx, ref)
			}
			if err != nil {
				return err
			}
			fmt.Printf("ack %d\n", n)
			if n++; n == to {
				break
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// newKey is the key that rewrapper gives to the store.
func newKey(dir string) sealed.Key { return sealed.Key{File: filepath.Join(dir, "new", "key.txt")} }

// rewrapper gives the store another key and acknowledges it.
func rewrapper(dir string) error {
	s, err := sealed.Open(ctx, options(dir))
	if err != nil {
		return err
	}
	if err := s.Rewrap(ctx, newKey(dir)); err != nil {
		return err
	}
	fmt.Println("ack rewrap")
	return s.Close()
}

// copier restores the backup from, then makes a backup of the new store. It acknowledges both.
func copier(dir, from string) error {
	o := options(dir)
	o.Key.File = os.Getenv("SEALED_TEST_KEY")
	if _, err := sealed.Restore(ctx, o, from, "copy"); err != nil {
		return err
	}
	fmt.Println("ack restored")
	s, err := sealed.Open(ctx, o)
	if err != nil {
		return err
	}
	if err := s.Backup(ctx, backupIn(dir)); err != nil {
		return err
	}
	fmt.Println("ack backed up")
	return s.Close()
}

func backupIn(dir string) string { return filepath.Join(dir, "backups", "b") }

func writerCommand(dir string, from, to int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SEALED_TEST_WRITER="+dir, fmt.Sprintf("SEALED_TEST_FROM=%d", from),
		fmt.Sprintf("SEALED_TEST_TO=%d", to))
	return cmd
}

// checkSteps returns the number of steps that the store at dir has made: acked, or one more, which
// was under way. Any other state is an error.
func checkSteps(dir string, acked int) (int, error) {
	o := options(dir)
	err := checkWhole(o, stateAfter(acked))
	if err == nil && acked == 0 {
		_, err = os.Stat(o.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
	}
	if err == nil {
		// An update under way would be seen as a wrong value. The deletion of an absent secret or
		// the creation of an equal one cannot be distinguished, and need not be.
		return acked, nil
	}
	if err2 := checkWhole(o, stateAfter(acked+1)); err2 != nil {
		return 0, fmt.Errorf("after %d acknowledged steps: %w; with one more: %w", acked, err, err2)
	}
	return acked + 1, nil
}

// TestKill kills a writing process with SIGKILL, again and again. After each time every
// acknowledged change must be in the store, and no change may be half made.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := 300
	if testing.Short() {
		kills = 30
	}
	dir, done := t.TempDir(), 0
	for kill := range kills {
		if kill%25 == 0 {
			dir, done = t.TempDir(), 0 // start again, so that the making of a store is interrupted, too
		}
		cmd := writerCommand(dir, done, 1<<30)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		b, err := io.ReadAll(out)
		require.NoError(t, err)
		require.ErrorContains(t, cmd.Wait(), "signal: killed", stderr.String())
		done += bytes.Count(b, []byte("\n"))
		done, err = checkSteps(dir, done)
		require.NoErrorf(t, err, "kill %d", kill)
	}
}

// everySyncPoint records a writer. It has check examine every state that a power cut could have
// left of dir: see [disktest.EverySyncPoint].
func everySyncPoint(t *testing.T, dir string, writer *exec.Cmd, acks int, check func(state string, acked int) error) {
	t.Helper()
	strace := harness.Need(t, "strace")
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, slices.Concat(disktest.Strace(log), []string{"--", writer.Path}, writer.Args[1:])...)
	cmd.Env = writer.Env
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	disktest.EverySyncPoint(t, dir, log, acks, func(fd int, _ string, data []byte) int {
		if fd != 1 {
			return 0
		}
		return bytes.Count(data, []byte("ack "))
	}, check)
}

// After a power cut every acknowledged change is in the store.
func TestEverySyncPoint(t *testing.T) {
	t.Parallel()
	steps := 45
	if testing.Short() {
		steps = 8
	}
	dir := t.TempDir()
	everySyncPoint(t, dir, writerCommand(dir, 0, steps), steps, func(state string, acked int) error {
		_, err := checkSteps(state, acked)
		return err
	})
}

// A power cut during Rewrap leaves a store that the old key opens or the new one; after the
// acknowledgement, the new one only.
func TestRewrapSyncPoints(t *testing.T) {
	t.Parallel()
	steps := 5
	if testing.Short() {
		steps = 1
	}
	dir := t.TempDir()
	cmd := writerCommand(dir, 0, steps)
	cmd.Env = append(cmd.Env, "SEALED_TEST_REWRAP=1")
	byOld, byNew := 0, 0
	everySyncPoint(t, dir, cmd, steps+1, func(state string, acked int) error {
		_, old := checkSteps(state, min(acked, steps))
		o := options(state)
		o.Key = newKey(state)
		renewed := checkWhole(o, stateAfter(steps))
		switch {
		case old == nil && acked <= steps:
			byOld++
			return nil
		case errors.Is(old, secret.ErrDenied) && renewed == nil && acked >= steps:
			byNew++
			return nil
		}
		return fmt.Errorf("old key: %w; new key: %w", old, renewed)
	})
	require.Positive(t, byOld)
	require.Positive(t, byNew)
}

// A power cut during a copy leaves a whole copy or none; after the acknowledgement, a whole copy.
func TestCopySyncPoints(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	want := history(t, o)
	from := backupIn(filepath.Dir(o.Path))
	s := open(t, o)
	require.NoError(t, s.Backup(t.Context(), from))
	require.NoError(t, s.Close())
	dir := t.TempDir()
	cmd := writerCommand(dir, 0, 0)
	cmd.Env = append(cmd.Env, "SEALED_TEST_RESTORE="+from, "SEALED_TEST_KEY="+o.Key.File)
	absent, whole := 0, 0
	everySyncPoint(t, dir, cmd, 2, func(state string, acked int) error {
		for i, path := range []string{options(state).Path, backupIn(state)} {
			_, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist) && acked <= i:
				absent++
				continue
			case err == nil:
				whole++
				o := o
				o.Path = path
				err = checkWhole(o, want)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	require.Positive(t, absent)
	require.Positive(t, whole)
}

// If the key or the store cannot be made, the error says so and nothing is made. A full disk is
// tested in the scripts of cmd/inject.
func TestCannotMake(t *testing.T) {
	t.Parallel()
	o := options(t.TempDir())
	s := open(t, o)
	require.NoError(t, os.WriteFile(filepath.Dir(o.Key.File), nil, 0o600)) // a file in place of the folder of the key
	require.Error(t, s.Create(t.Context(), keyRef, secret.Value{}, store.Regular))
	require.NoFileExists(t, o.Path, "no store without a key")

	o = options(t.TempDir())
	require.NoError(t, os.WriteFile(filepath.Dir(o.Path), nil, 0o600))
	_, err := sealed.Open(t.Context(), o)
	require.ErrorIs(t, err, secret.ErrUnavailable)
}
