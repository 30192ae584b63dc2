package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// A server that crashes leaves no core file, whatever limit it inherits, and its goroutine dump
// holds no value.
func TestNoCore(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	var old unix.Rlimit
	require.NoError(t, unix.Prlimit(0, unix.RLIMIT_CORE, &unlimited, &old)) // child processes inherit it
	defer func() { require.NoError(t, unix.Prlimit(0, unix.RLIMIT_CORE, &old, nil)) }()

	other := exec.Command("sh", "-c", "kill -ABRT $$")
	other.Dir = t.TempDir()
	require.Error(t, other.Run())
	require.True(t, coreOf(t, other), "another process leaves one")

	s := newSearcher()
	for _, signal := range []syscall.Signal{syscall.SIGABRT, syscall.SIGQUIT, syscall.SIGSEGV} {
		dir := t.TempDir()
		// With crash the runtime ends as if it had no handlers, once it has said all.
		p, err := startServer(dir, []string{"HOME=" + dir, "GOTRACEBACK=crash"}, "--insecure",
			"--store", "file://"+dir+"/secrets.db", "--key-file", filepath.Join(dir, "key.txt"), "--log-level", "debug")
		require.NoError(t, err)
		require.Regexp(t, `Max core file size +0 +0 `, read(t, fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid)))
		var group errgroup.Group
		var changes atomic.Int64
		for i := range 8 { // values on their way in and out
			c := connect(t, p)
			group.Go(func() error {
				defer c.Close() //nolint:errcheck // it has no connection any more
				for n := 0; ; n++ {
					ref := secret.Ref{Scope: task, Key: fmt.Sprintf("K%d_%d", i, n)}
					err := c.Create(t.Context(), ref, secret.NewValue(slices.Concat(s.cores[n%len(s.cores)],
						make([]byte, n%3*4000))), store.Regular)
					if err == nil {
						_, err = c.Resolve(t.Context(), task, []secret.Declaration{{Key: ref.Key}})
					}
					if errors.Is(err, secret.ErrUnavailable) {
						return nil
					}
					if err != nil {
						return err
					}
					changes.Add(1)
				}
			})
		}
		for changes.Load() < 20 {
			time.Sleep(time.Millisecond)
		}
		require.Error(t, p.stop(signal))
		require.NoError(t, group.Wait())
		require.Contains(t, p.stderr.String(), "goroutine ")
		require.False(t, coreOf(t, p.cmd), p.cmd.ProcessState)
		left, err := filepath.Glob(filepath.Join(dir, "*core*"))
		require.NoError(t, err)
		require.Empty(t, left)
		s.clean(t, "the dump of goroutines", []byte(p.stderr.String()))
	}
}

// Other processes of the server's user cannot read its memory, and no core is written where a
// program takes cores. That holds before the server has a store, because clients send values.
func TestHidden(t *testing.T) {
	harness.NeedRoot(t)                            // to be another user
	dir, err := os.MkdirTemp("", "injectd-hidden") //nolint:usetesting // t.TempDir is in a folder that is root's alone
	require.NoError(t, err)
	defer os.RemoveAll(dir) //nolint:errcheck // best effort
	require.NoError(t, os.Chown(dir, 65534, 65534))
	ownerOf := func(name string, args ...string) func() uint32 {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return func() uint32 {
			info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
			require.NoError(t, err)
			status, ok := info.Sys().(*syscall.Stat_t)
			require.True(t, ok)
			return status.Uid
		}
	}
	other := ownerOf("/bin/sleep", "60")
	server := ownerOf(filepath.Join(binaries, "injectd"),
		"serve", "--insecure", "--listen", "127.0.0.1:0", "--ops-listen=")
	require.Eventually(t, func() bool { return server() == 0 }, time.Minute, time.Millisecond,
		"it is root's to look into")
	require.EqualValues(t, 65534, other(), "another is its user's")
}

// coreOf reports whether the kernel wrote a core file of a process that a signal ended.
func coreOf(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled(), cmd.ProcessState)
	return status.CoreDump()
}
