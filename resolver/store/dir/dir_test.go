package dir_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/dir"
	"inject/resolver/store/storetest"
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	if root := os.Getenv("DIR_TEST_READ"); root != "" {
		os.Exit(readAsNobody(root))
	}
	goleak.VerifyTestMain(m)
}

// layout repeats the documented layout independently of the code.
func layout(ref secret.Ref) string {
	switch {
	case ref.Domain == "" && ref.Project == "":
		return ref.Key
	case ref.Project == "":
		return ref.Domain + "/" + ref.Key
	case ref.Domain == "":
		return "_/" + ref.Project + "/" + ref.Key
	}
	return ref.Domain + "/" + ref.Project + "/" + ref.Key
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, b, 0o644))
}

func open(t *testing.T, root string) *dir.Store {
	t.Helper()
	s, err := dir.Open(root, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.RunReader(t, func(t *testing.T, seed map[secret.Ref][]byte) storetest.ReadLister {
		root := t.TempDir()
		for ref, b := range seed {
			write(t, filepath.Join(root, layout(ref)), b)
		}
		return open(t, root)
	})
}

// The suite on a folder as kubelet mounts it: every name is a link into ..data, which is a link to
// the folder of the current generation.
func TestConformanceKubelet(t *testing.T) {
	t.Parallel()
	storetest.RunReader(t, func(t *testing.T, seed map[secret.Ref][]byte) storetest.ReadLister {
		root := t.TempDir()
		require.NoError(t, os.MkdirAll(filepath.Join(root, "..2026_11_23"), 0o755))
		require.NoError(t, os.Symlink("..2026_11_23", filepath.Join(root, "..data")))
		for ref, b := range seed {
			write(t, filepath.Join(root, "..2026_11_23", layout(ref)), b)
			first, _, _ := strings.Cut(layout(ref), "/")
			if err := os.Symlink("..data/"+first, filepath.Join(root, first)); !errors.Is(err, os.ErrExist) {
				require.NoError(t, err)
			}
		}
		return open(t, root)
	})
}

// While generations are replaced as fast as possible, every read returns a whole value of one
// generation, never absence.
func TestSwap(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	ref := secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: "K"}
	generation := func(i int) string { return fmt.Sprintf("..%d", i) }
	publish := func(i int) {
		write(t, filepath.Join(root, generation(i), "K"), bytes.Repeat([]byte{byte(i)}, 5000))
		require.NoError(t, os.Symlink(generation(i), filepath.Join(root, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(root, "..data_tmp"), filepath.Join(root, "..data")))
	}
	publish(0)
	require.NoError(t, os.Symlink("..data/K", filepath.Join(root, "K")))
	s := open(t, root)
	var stop atomic.Bool
	done := make(chan error)
	go func() {
		for !stop.Load() {
			v, _, err := s.Get(t.Context(), ref)
			if b := v.Reveal(); err == nil && !bytes.Equal(b, bytes.Repeat(b[:1], 5000)) {
				err = errors.New("a mixture")
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 500 {
		publish(i + 1)
		require.NoError(t, os.RemoveAll(filepath.Join(root, generation(i))))
	}
	stop.Store(true)
	require.NoError(t, <-done)
}

// Kubelet's own folders are not scopes. Otherwise a secret of a domain would also be found as one
// of a project.
func TestNoScopeOfKubelet(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, filepath.Join(root, "..1", "prod", "K"), []byte("v"))
	require.NoError(t, os.Symlink("..1", filepath.Join(root, "..data")))
	require.NoError(t, os.Symlink("..data/prod", filepath.Join(root, "prod")))
	s := open(t, root)
	_, _, err := s.Get(t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "prod"}, Key: "K"})
	require.NoError(t, err)
	for _, domain := range []string{"..data", "..1"} {
		ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: domain, Project: "prod"}, Key: "K"}
		_, _, err := s.Get(t.Context(), ref)
		require.ErrorIs(t, err, secret.ErrNotFound)
		_, err = s.Describe(t.Context(), ref)
		require.ErrorIs(t, err, secret.ErrNotFound)
	}
}

func TestNotASecret(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, []byte("v"))
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "ESCAPES")))
	require.NoError(t, os.Mkdir(filepath.Join(root, "FOLDER"), 0o755))
	require.NoError(t, syscall.Mkfifo(filepath.Join(root, "FIFO"), 0o644))
	write(t, filepath.Join(root, "LARGE"), make([]byte, store.MaxValue+1))
	write(t, filepath.Join(root, "domain"), []byte("a secret with the name of a domain"))
	write(t, filepath.Join(root, "not a key"), []byte("v"))
	write(t, filepath.Join(root, "d/p/q/K"), []byte("v"))
	write(t, filepath.Join(root, "OK"), []byte("v"))

	require.NoError(t, os.Mkdir(filepath.Join(root, "dangles"), 0o755))
	require.NoError(t, os.Symlink("gone", filepath.Join(root, "dangles", "OK")))
	require.NoError(t, os.Symlink("gone", filepath.Join(root, "nowhere")))

	s := open(t, root)
	org := secret.Scope{Org: "flyte"}
	for key, want := range map[string]error{
		"FOLDER":  secret.ErrNotFound,
		"ESCAPES": secret.ErrUnavailable,
		"FIFO":    secret.ErrInvalid,
		"LARGE":   secret.ErrInvalid,
		"OK":      nil,
	} {
		t.Run(key, func(t *testing.T) {
			_, _, err := s.Get(t.Context(), secret.Ref{Scope: org, Key: key})
			require.ErrorIs(t, err, want)
		})
	}

	// A link that leads nowhere must not read as absence: the ladder would take a wider value.
	for _, domain := range []string{"dangles", "nowhere"} {
		t.Run(domain, func(t *testing.T) {
			ref := secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: domain}, Key: "OK"}
			storetest.RunFault(t, s, ref, secret.ErrUnavailable)
		})
	}
	_, _, err := s.Get(t.Context(), secret.Ref{Scope: secret.Scope{Org: "flyte", Domain: "domain"}, Key: "K"})
	require.ErrorIs(t, err, secret.ErrNotFound)
	_, _, err = s.Get(t.Context(), secret.Ref{Scope: secret.Scope{Org: "other"}, Key: "OK"})
	require.ErrorIs(t, err, secret.ErrNotFound, "the folder belongs to one org")
}

func TestNoFolder(t *testing.T) {
	t.Parallel()
	_, err := dir.Open(filepath.Join(t.TempDir(), "absent"), "")
	require.ErrorIs(t, err, secret.ErrUnavailable)
	require.NotErrorIs(t, err, secret.ErrNotFound)
	require.NotEmpty(t, secret.Hint(err))
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	_, err = dir.Open(file, "")
	require.Error(t, err)
}

// readAsNobody is the child process of TestDenied, as another user. It exits with 0 if the readable
// secret is read and the other one is denied, not absent.
func readAsNobody(root string) int {
	s, err := dir.Open(root, "")
	if err != nil {
		return 1
	}
	get := func(key string) error {
		_, _, err := s.Get(ctx, secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: key})
		return err
	}
	if err := get("ALLOWED"); err != nil {
		return 2
	}
	if err := get("DENIED"); !errors.Is(err, secret.ErrDenied) || errors.Is(err, secret.ErrNotFound) {
		return 3
	}
	return 0
}

func TestDenied(t *testing.T) {
	t.Parallel()
	root, err := os.MkdirTemp("", "dir-test") //nolint:usetesting // the folder above t.TempDir is closed to other users
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	require.NoError(t, os.Chmod(root, 0o755))
	write(t, filepath.Join(root, "ALLOWED"), []byte("v"))
	write(t, filepath.Join(root, "DENIED"), []byte("v"))
	require.NoError(t, os.Chmod(filepath.Join(root, "DENIED"), 0))
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	bin := filepath.Join(root, "test")
	require.NoError(t, os.WriteFile(bin, self, 0o755))
	cmd := exec.Command(bin)
	cmd.Env = append(os.Environ(), "DIR_TEST_READ="+root)
	if os.Geteuid() == 0 { // root may read everything
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
}
