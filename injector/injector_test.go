package injector

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec"
	"inject/exec/redact"
	"inject/injector/place"
	"inject/resolver"
	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options returns the options that run command with the declared secrets, and functions that
// return what it has written. The value of KEY is value-of-key.
func options(t *testing.T, command []string, declared ...secret.Declaration) (o Options, stdout, stderr func() string) {
	t.Helper()
	s := storetest.Memory()
	for _, d := range declared {
		ref := secret.Ref{Scope: secret.Scope{Org: "flyte"}, Key: d.Key}
		value := secret.NewValue([]byte("value-of-" + strings.ToLower(d.Key)))
		if err := s.Create(t.Context(), ref, value, store.Regular); !errors.Is(err, secret.ErrExists) {
			require.NoError(t, err)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	file := func() (*os.File, func() string) {
		f, err := os.CreateTemp(t.TempDir(), "out")
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f, func() string {
			b, err := os.ReadFile(f.Name())
			require.NoError(t, err)
			return string(b)
		}
	}

	o = Options{
		Scope: secret.Scope{Org: "flyte"}, Declared: declared,
		Resolver: resolver.Over(s), Deadline: time.Now().Add(time.Minute),
		Environ:    []string{"PATH=" + os.Getenv("PATH"), "INJECT_KEY=credential"},
		OnConflict: place.Overwrite, FilesDir: t.TempDir(),
		Redactor: redact.New(6), Command: command, Log: hclog.NewNullLogger(),
	}
	o.Stdout, stdout = file()
	o.Stderr, stderr = file()
	return o, stdout, stderr
}

func TestRun(t *testing.T) {
	o, stdout, stderr := options(t,
		[]string{"sh", "-c", `echo "$A $VAR"; cat "$VAR" >&2; env | grep INJECT_ | cut -d= -f1; exit 3`},
		secret.Declaration{Key: "A", Mount: secret.EnvVar},
		secret.Declaration{Key: "B", Mount: secret.File, EnvVar: "VAR"})
	released := false
	o.Release = func() error {
		released = true
		return nil
	}
	status, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, exec.Status{Code: 3}, status)
	require.True(t, released)
	require.Equal(t, "[REDACTED:A] "+o.FilesDir+"/B\nINJECT_PARENT\n", stdout())
	require.Equal(t, "[REDACTED:B]", stderr())
	left, err := os.ReadDir(o.FilesDir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// If anything fails before the start, the command does not start and no file is left.
func TestNothingIsLeft(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	file := secret.Declaration{Key: "B", Mount: secret.File}
	for _, c := range []struct {
		name  string
		spoil func(*Options)
	}{
		{"missing", func(o *Options) { o.Declared = append(o.Declared, secret.Declaration{Key: "MISSING"}) }},
		{"conflict", func(o *Options) { o.OnConflict, o.Environ = place.Fail, append(o.Environ, "A=set") }},
		{"no command", func(o *Options) { o.Command = []string{"no-such-command-here"} }},
		{"release", func(o *Options) { o.Release = func() error { return errors.New("store") } }},
		{"deadline", func(o *Options) { o.Deadline = time.Now().Add(-time.Second) }},
		{"file taken", func(o *Options) {
			path := filepath.Join(t.TempDir(), "taken")
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			o.Declared = append(o.Declared, secret.Declaration{Key: "A", Mount: secret.File, Path: path})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _, _ := options(t, []string{"touch", started}, secret.Declaration{Key: "A", Mount: secret.EnvVar}, file)
			c.spoil(&o)
			_, err := Run(t.Context(), o)
			require.Error(t, err)
			require.NoFileExists(t, started)
			for _, dir := range []string{o.FilesDir, os.Getenv("XDG_RUNTIME_DIR")} {
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, left)
			}
		})
	}

	o, _, _ := options(t, []string{"touch", started}, file)
	ctx, cancel := context.WithCancel(t.Context())
	o.Release = func() error {
		cancel() // asked to stop between resolving and starting
		return nil
	}
	_, err := Run(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.NoFileExists(t, started)
}
