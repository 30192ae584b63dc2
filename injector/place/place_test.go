package place

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		conflict Conflict
		want     []string
		err      string
	}{
		{Overwrite, []string{"noequals", "=x", "PATH=/p", "A=value", "EMPTY=", "_UNION_A=value"}, ""},
		{Keep, []string{"noequals", "=x", "PATH=/p", "A=old", "EMPTY=", "_UNION_A=value"}, ""},
		{Fail, nil, "the variable A is already set"},
	} {
		to := Target{OnConflict: c.conflict, Environ: []string{"noequals", "PATH=/p", "A=old", "=x", "INJECT_STORE=x", "EMPTY="}, Masked: true}
		p, err := Values(to, []Secret{{Declaration: secret.Declaration{Key: "A"}, Value: secret.NewValue([]byte("value"))}})
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		env := slices.DeleteFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, "FLYTE_") || strings.HasPrefix(v, ParentVar) })
		require.Equal(t, c.want, env)
	}
	a, b := []secret.Declaration{{Key: "A"}}, []secret.Declaration{{Key: "B"}}
	scope := secret.Scope{Org: "flyte"}
	require.Equal(t, listDigest(a), listDigest(slices.Clone(a)))
	require.NotEqual(t, listDigest(a), listDigest(b))
	require.NotEqual(t, scopeDigest(scope), scopeDigest(secret.Scope{Org: "o"}))
}

func TestPlaced(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "elsewhere")
	declared := []secret.Declaration{
		{Key: "A", Mount: secret.EnvVar}, {Key: "B", Mount: secret.File, EnvVar: "B_PATH"}, {Key: "C", Mount: secret.File, Path: at},
	}
	scope := secret.Scope{Org: "flyte", Project: "p", Domain: "d"}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "B"), nil, 0o600))
	require.NoError(t, os.WriteFile(at, nil, 0o600))
	parent := ParentVar + "=" + listDigest(declared) + scopeDigest(scope)
	environ := []string{"A=", "_UNION_A=x", "B_PATH=" + dir + "/B", parent}
	other := secret.Scope{Org: "flyte"}
	for _, c := range []struct {
		environ  []string
		dir      string
		scope    secret.Scope
		said     bool
		declared []secret.Declaration
		placed   bool
		errs     int
	}{
		{environ, dir, scope, false, declared, true, 0},
		{environ, dir, scope, true, declared, true, 0},
		{environ, dir, other, false, declared, true, 0},
		{environ, dir, other, true, declared, false, 0}, // another scope was asked for
		{environ, dir, scope, false, declared[:2], false, 0},
		{environ[:3], dir, scope, false, declared, false, 0},
		{[]string{parent}, "", scope, false, declared, true, 4}, // forged
		{append(slices.Clone(environ[:3]), ParentVar+"=x"), dir, scope, false, declared, false, 0},
		{environ, "", scope, false, declared, true, 1},
	} {
		placed, err := Placed(c.environ, c.dir, "", c.scope, c.said, c.declared)
		require.Equal(t, c.placed, placed)
		if c.errs == 0 {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, secret.ErrInvalid)
		require.Equal(t, c.errs, strings.Count(err.Error(), "INJECT_PARENT says that it is placed"), err)
	}
	for there, want := range map[string]bool{dir: true, filepath.Join(dir, "elsewhere"): false} {
		placed, err := Placed(environ, dir, there, scope, true, declared)
		require.NoError(t, err)
		require.Equal(t, want, placed)
	}
}

// Sweeps go on while runs make, use and remove their folders: they never take a
// living one's files.
func TestSweepSparesTheLiving(t *testing.T) {
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	t.Setenv("TMPDIR", base)
	done := make(chan struct{})
	var sweeps, runs sync.WaitGroup
	for range 2 {
		sweeps.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					sweep(bases(base), hclog.NewNullLogger())
				}
			}
		})
	}
	value := []byte("value")
	for i := range 4 {
		dir := filepath.Join(base, string(rune('a'+i)))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		runs.Go(func() {
			for range 200 {
				path, lock, err := makeLocked(base)
				if err != nil {
					t.Error(err)
					return
				}
				f := &folder{path: path, appears: dir, lock: lock}
				at, err := f.place(secret.Declaration{Key: "K", Mount: secret.File}, value)
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					if b, err := os.ReadFile(at); err != nil || !bytes.Equal(b, value) {
						t.Errorf("a living run's file: %v", err)
						return
					}
				}
				if err := f.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	runs.Wait()
	close(done)
	sweeps.Wait()
	left, err := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
	require.NoError(t, err)
	require.Empty(t, left)
}
