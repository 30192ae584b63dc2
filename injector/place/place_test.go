package place

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/exec/redact"
	"inject/internal/harness"
	"inject/resolver/secret"
)

// role in the environment makes this binary another run, which a test may kill: see children.
const role = "INJECT_TEST_PLACE"

func TestMain(m *testing.M) {
	if play := children[os.Getenv(role)]; play != nil {
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// children are programs that a test starts as another process. Each works in a folder, prints a
// line when it has begun, and runs until it is killed or its stdin ends.
var children = map[string]func() error{
	// holds places a file secret as a run does, and prints where it appears.
	"holds": func() error {
		f, err := newFolder(".", hclog.NewNullLogger())
		if err != nil {
			return err
		}
		at, err := f.place(secret.Declaration{Key: "K", Mount: secret.File}, []byte("value"))
		if err != nil {
			return err
		}
		fmt.Println(at)
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	},
	// disturbs is the hostile process of TestHostileProcess.
	"disturbs": disturb,
	// publishes places two files with the same text again and again, as many inits do.
	"publishes": func() error {
		for i := 0; ; i++ {
			secrets := pair(fmt.Sprintf("%d of %d ", i, os.Getpid()))
			if err := Files(".", -1, secrets, hclog.NewNullLogger()); err != nil {
				return err
			}
			if i == 0 {
				fmt.Println("begun")
			}
		}
	},
}

// startChild starts one of children, and returns it with the line that it prints.
func startChild(t *testing.T, name, dir string) (*osexec.Cmd, string) {
	t.Helper()
	return start(t, osexec.Command(os.Args[0]), name, dir)
}

// start starts one of children as cmd.
func start(t *testing.T, cmd *osexec.Cmd, name, dir string) (*osexec.Cmd, string) {
	t.Helper()
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), role+"="+name), dir, os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return cmd, strings.TrimSpace(line)
}

// inMemoryDir returns a new folder on a tmpfs, in which runs make their private folders: other
// tests on this machine do not sweep it.
func inMemoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "inject-test-") //nolint:usetesting // t.TempDir is on a disk
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}

// list returns the names in dir.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func fileSecret(key, value string) Secret {
	return Secret{Declaration: secret.Declaration{Key: key, Mount: secret.File}, Value: secret.NewValue([]byte(value))}
}

func TestEnvironment(t *testing.T) {
	environ := []string{"noequals", "PATH=/p", "A=old", "=x", "INJECT_STORE=x", "EMPTY="}
	for _, c := range []struct {
		name     string
		conflict Conflict
		secrets  []Secret
		want     []string
		errs     []string
	}{
		{
			"overwrite", Overwrite,
			[]Secret{variable("A", "value")},
			[]string{"noequals", "=x", "PATH=/p", "A=value", "EMPTY=", "_UNION_A=value"},
			nil,
		},
		{
			"keep", Keep,
			[]Secret{variable("A", "value")},
			[]string{"noequals", "=x", "PATH=/p", "A=old", "EMPTY=", "_UNION_A=value"},
			nil,
		},
		{"error", Fail, []Secret{variable("A", "value")}, nil, []string{"A: the variable A is already set"}},
		{
			"bytes are kept", Overwrite,
			[]Secret{variable("B", " \xff$A\n")},
			[]string{"noequals", "=x", "PATH=/p", "A=old", "EMPTY=", "B= \xff$A\n", "_UNION_B= \xff$A\n"},
			nil,
		},
		{
			"all that does not fit", Overwrite,
			[]Secret{variable("NUL", "a\x00b"), variable("LONG", strings.Repeat("x", maxVariable)), variable("C", "c")},
			nil,
			[]string{"NUL: the value holds a NUL byte", fmt.Sprintf("LONG: the value is %d bytes long", maxVariable)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Values(Target{OnConflict: c.conflict, Environ: environ, Masked: true}, c.secrets)
			if c.errs != nil {
				require.ErrorIs(t, err, secret.ErrInvalid)
				require.Len(t, strings.Split(err.Error(), "\n"), len(c.errs))
				for _, text := range c.errs {
					require.ErrorContains(t, err, text)
				}
				return
			}
			require.NoError(t, err)
			env := slices.DeleteFunc(p.Env, func(v string) bool {
				return strings.HasPrefix(v, "FLYTE_") || strings.HasPrefix(v, ParentVar)
			})
			require.Equal(t, c.want, env)
			require.False(t, p.HasFiles())
		})
	}
}

// A secret of a group is in the variables in which flytekit and Flyte's webhooks have it, too. They
// never keep a task from starting that would start without them, but for --on-conflict error.
func TestGroupVariables(t *testing.T) {
	grouped := func(mount secret.Mount, variable, value string) Secret {
		d := secret.Declaration{Group: "prod", Key: "db-pass", Mount: mount, EnvVar: variable}
		return Secret{Declaration: d, Value: secret.NewValue([]byte(value))}
	}
	longest := strings.Repeat("x", maxVariable-len("DB="))
	for _, c := range []struct {
		name     string
		environ  []string
		conflict Conflict
		secret   Secret
		want     []string // "prefix" stands for FLYTE_SECRETS_ENV_PREFIX
	}{
		{
			"of a variable", nil, Overwrite, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "_FSEC_PROD_DB-PASS=v", "_UNION_PROD_DB-PASS=v", "prefix=_UNION_"},
		},
		{
			"without a name", nil, Overwrite, grouped(secret.EnvVar, "", "v"),
			[]string{
				"PROD_DB_PASS=v", "_FSEC_PROD_DB-PASS=v", "_UNION_DB-PASS=v", "_UNION_PROD_DB-PASS=v",
				"prefix=_UNION_",
			},
		},
		{
			"the prefix of v1",
			[]string{"prefix=_FSEC_"},
			Overwrite, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "_FSEC_PROD_DB-PASS=v", "_UNION_PROD_DB-PASS=v", "prefix=_FSEC_"},
		},
		{
			"another prefix",
			[]string{"prefix=My_"},
			Overwrite, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "My_PROD_DB-PASS=v", "_FSEC_PROD_DB-PASS=v", "_UNION_PROD_DB-PASS=v", "prefix=My_"},
		},
		{
			"an empty prefix",
			[]string{"prefix="},
			Overwrite, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "_FSEC_PROD_DB-PASS=v", "_UNION_PROD_DB-PASS=v", "prefix=_UNION_"},
		},
		{
			"is kept",
			[]string{"_FSEC_PROD_DB-PASS=old"},
			Keep, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "_FSEC_PROD_DB-PASS=old", "_UNION_PROD_DB-PASS=v", "prefix=_UNION_"},
		},
		{
			"is replaced",
			[]string{"_FSEC_PROD_DB-PASS=old"},
			Overwrite, grouped(secret.EnvVar, "DB", "v"),
			[]string{"DB=v", "_FSEC_PROD_DB-PASS=v", "_UNION_PROD_DB-PASS=v", "prefix=_UNION_"},
		},
		{
			"does not fit", nil, Overwrite, grouped(secret.EnvVar, "DB", longest),
			[]string{"DB=" + longest, "prefix=_UNION_"},
		},
		{"of a file", nil, Overwrite, grouped(secret.File, "", "v"), nil},
		{"a NUL byte in a file, too", nil, Overwrite, grouped(secret.Any, "", "v\x00"), []string{"prefix=_UNION_"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, v := range c.environ {
				c.environ[i] = strings.Replace(v, "prefix=", secret.PrefixVar+"=", 1)
			}
			p, err := Values(Target{
				Environ: c.environ, OnConflict: c.conflict, FilesDir: t.TempDir(), Log: hclog.NewNullLogger(),
			}, []Secret{c.secret})
			require.NoError(t, err)
			defer p.Remove(hclog.NewNullLogger())
			var env []string
			for _, v := range p.Env {
				if v = strings.Replace(v, secret.PrefixVar+"=", "prefix=", 1); !strings.HasPrefix(v, "FLYTE_") {
					env = append(env, v)
				}
			}
			slices.Sort(env)
			require.Equal(t, c.want, env)
		})
	}

	for _, c := range []struct {
		name    string
		environ []string
		secrets []Secret
		want    string
	}{
		{
			"is set",
			[]string{"_FSEC_PROD_DB-PASS=old"},
			[]Secret{grouped(secret.EnvVar, "DB", "v")},
			"db-pass: the variable _FSEC_PROD_DB-PASS is already set",
		},
		{
			"a bad prefix",
			[]string{secret.PrefixVar + "=LD_"},
			[]Secret{grouped(secret.EnvVar, "DB", "v")},
			secret.PrefixVar,
		},
		{
			"a NUL byte in a variable with a name", nil,
			[]Secret{grouped(secret.Any, "DB", "v\x00")},
			"db-pass: the value holds a NUL byte, and the variable DB cannot hold one",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Values(Target{
				Environ: c.environ, OnConflict: Fail, FilesDir: dir, Log: hclog.NewNullLogger(),
			}, c.secrets)
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.Empty(t, list(t, dir))
		})
	}
}

// A secret that is declared for ANY, with another group, and as a file, is in one file, which has
// the names of all three. Its variable holds the value, and that of the file the path.
func TestAny(t *testing.T) {
	declared := []secret.Declaration{
		{Group: "prod", Key: "KEY"},
		{Group: "other", Key: "KEY", EnvVar: "VALUE"},
		{Key: "KEY", Mount: secret.File, EnvVar: "AT"},
	}
	secrets := make([]Secret, len(declared))
	for i, d := range declared {
		secrets[i] = Secret{Declaration: d, Value: secret.NewValue([]byte("text"))}
	}
	names := []string{"KEY", "key", "other/KEY", "other/key", "prod/KEY", "prod/key"}

	dir := filepath.Join(t.TempDir(), "files")
	log, lines := harness.Logger()
	p, err := Values(Target{FilesDir: dir, Log: log}, secrets)
	require.NoError(t, err)
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, "text", string(b))
	}
	require.Subset(t, p.Env, []string{
		"PROD_KEY=text", "_UNION_PROD_KEY=text", "VALUE=text", "_UNION_OTHER_KEY=text", "AT=" + dir + "/KEY",
		"FLYTE_SECRETS_DEFAULT_DIR=" + dir, "FLYTE_SECRETS_FILE_PREFIX=",
	})
	require.NotContains(t, lines.String(), "could not be given")
	p.Remove(log)
	require.NoDirExists(t, dir)

	require.NoError(t, Files(dir, -1, secrets, log))
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, "text", string(b))
	}
	require.NotContains(t, lines.String(), "could not be given")
}

func variable(key, value string) Secret {
	d := secret.Declaration{Key: key, Mount: secret.EnvVar}
	return Secret{Declaration: d, Value: secret.NewValue([]byte(value))}
}

// A task whose output is masked gets our digests in INJECT_PARENT, one whose output is not masked
// gets no such variable, and one without secrets inherits ours.
func TestParentVariable(t *testing.T) {
	scope := secret.Scope{Org: "flyte"}
	one := []Secret{variable("A", "value")}
	told := ParentVar + "=" + listDigest(declarations(one)) + scopeDigest(scope)
	for _, c := range []struct {
		name    string
		masked  bool
		secrets []Secret
		want    string
	}{
		{"masked", true, one, told},
		{"not masked", false, one, ""},
		{"no secrets", true, nil, ParentVar + "=ours"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Values(Target{Environ: []string{ParentVar + "=ours"}, Scope: scope, Masked: c.masked}, c.secrets)
			require.NoError(t, err)
			i := slices.IndexFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, ParentVar+"=") })
			if c.want == "" {
				require.Negative(t, i)
				return
			}
			require.GreaterOrEqual(t, i, 0)
			require.Equal(t, c.want, p.Env[i])
		})
	}
}

// Forget zeroes the value where it was given, and in our copy of the task's environment.
func TestForget(t *testing.T) {
	given := []byte("value-to-forget")
	d := secret.Declaration{Key: "K", EnvVar: "V"}
	p, err := Values(Target{}, []Secret{{Declaration: d, Value: secret.NewValue(given)}})
	require.NoError(t, err)
	ours := p.values[0]
	require.Contains(t, string(ours), "value-to-forget")
	p.Forget()
	require.Empty(t, p.Env)
	require.Equal(t, bytes.Repeat([]byte{0}, len(given)), given)
	require.Equal(t, bytes.Repeat([]byte{0}, len(ours)), ours)
}

func TestWhere(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		d    secret.Declaration
		want string
	}{
		{"a variable", secret.Declaration{Key: "k", Mount: secret.EnvVar}, ""},
		{"a file", secret.Declaration{Key: "k", Mount: secret.File, EnvVar: "AT"}, dir + "/k"},
		{"either", secret.Declaration{Group: "g", Key: "k"}, dir + "/k"},
		{"a file at a path", secret.Declaration{Key: "k", Mount: secret.File, Path: "/a/../b"}, "/b"},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, Where(c.d, dir)) })
	}
}

func TestMask(t *testing.T) {
	r := redact.New(6)
	log, lines := harness.Logger()
	more := redact.Pattern{Name: "MORE", Value: []byte("more-value")}
	require.NoError(t, Mask(r, []Secret{variable("LONG", "long-value"), variable("PIN", "1234")}, log, more))
	var masked bytes.Buffer
	w := r.Writer(&masked)
	_, err := io.WriteString(w, "long-value more-value 1234")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Equal(t, "[REDACTED:LONG] [REDACTED:MORE] 1234", masked.String())
	require.Contains(t, lines.String(), "PIN")
	require.NotContains(t, lines.String(), "LONG")
	require.NotContains(t, lines.String(), "1234")
}

// Values that garble the output, and those that are not found in all forms, are named.
func TestMaskWarns(t *testing.T) {
	r := redact.New(6)
	log, lines := harness.Logger()
	require.NoError(t, Mask(r, []Secret{
		variable("LONG", "long-value"), variable("WORD", " Docker\n"),
		variable("HUGE", strings.Repeat("'\"<x>", 200_000)),
	}, log))
	require.Regexp(t, `many logs have in them.*\["?WORD"?\]`, lines.String())
	require.Regexp(t, `too large to be masked in all forms.*\["?HUGE"?\]`, lines.String())
	require.NotContains(t, lines.String(), "LONG")
	require.NotContains(t, lines.String(), "ocker")
}

func TestPlaced(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "elsewhere")
	declared := []secret.Declaration{
		{Key: "A", Mount: secret.EnvVar},
		{Key: "B", Mount: secret.File, EnvVar: "B_PATH"},
		{Key: "C", Mount: secret.File, Path: at},
	}
	scope := secret.Scope{Org: "flyte", Project: "p", Domain: "d"}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "B"), nil, 0o600))
	require.NoError(t, os.WriteFile(at, nil, 0o600))
	parent := ParentVar + "=" + listDigest(declared) + scopeDigest(scope)
	environ := []string{"A=", "_UNION_A=x", "B_PATH=" + dir + "/B", parent}
	another := append(slices.Clone(environ[:3]), ParentVar+"=x")
	other := secret.Scope{Org: "flyte"}
	for _, c := range []struct {
		name     string
		environ  []string
		dir      string
		filesDir string
		scope    secret.Scope
		said     bool
		declared []secret.Declaration
		placed   bool
		errs     int
	}{
		{"all of it", environ, dir, "", scope, false, declared, true, 0},
		{"at the scope that was asked for", environ, dir, "", scope, true, declared, true, 0},
		{"no scope was asked for", environ, dir, "", other, false, declared, true, 0},
		{"another scope was asked for", environ, dir, "", other, true, declared, false, 0},
		{"another list", environ, dir, "", scope, false, declared[:2], false, 0},
		{"not said", environ[:3], dir, "", scope, false, declared, false, 0},
		{"said by the task itself", []string{parent}, "", "", scope, false, declared, true, 4},
		{"another digest", another, dir, "", scope, false, declared, false, 0},
		{"the folder is not known", environ, "", "", scope, false, declared, true, 1},
		{"in the folder that was asked for", environ, dir, dir, scope, true, declared, true, 0},
		{"another folder was asked for", environ, dir, at, scope, true, declared, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			placed, err := Placed(c.environ, c.dir, c.filesDir, c.scope, c.said, c.declared)
			require.Equal(t, c.placed, placed)
			if c.errs == 0 {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, secret.ErrInvalid)
			require.Equal(t, c.errs, strings.Count(err.Error(), "INJECT_PARENT says that it is placed"), err)
		})
	}
}

// Of a secret that is declared for ANY, the variables or the file may be missing: those cannot hold
// some values, and earlier versions placed no file.
func TestPlacedAny(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "F"), nil, 0o600))
	for _, c := range []struct {
		name    string
		d       secret.Declaration
		environ []string
		errs    int
	}{
		{"variables and no file", secret.Declaration{Key: "A"}, []string{"A=", "_UNION_A="}, 0},
		{"a file and no variables", secret.Declaration{Key: "F"}, nil, 0},
		{"neither", secret.Declaration{Key: "A"}, []string{"A="}, 2},
		{"a file and not the variable that is named", secret.Declaration{Key: "F", EnvVar: "V"}, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			declared := []secret.Declaration{c.d}
			parent := ParentVar + "=" + listDigest(declared) + scopeDigest(secret.Scope{})
			placed, err := Placed(append(c.environ, parent), dir, "", secret.Scope{}, true, declared)
			require.True(t, placed)
			require.Equal(t, c.errs, strings.Count(fmt.Sprint(err), "INJECT_PARENT says that it is placed"), err)
		})
	}
}

func TestDigests(t *testing.T) {
	a, b := []secret.Declaration{{Key: "A"}}, []secret.Declaration{{Key: "B"}}
	scope := secret.Scope{Org: "flyte"}
	require.Equal(t, listDigest(a), listDigest(slices.Clone(a)))
	require.NotEqual(t, listDigest(a), listDigest(b))
	require.NotEqual(t, scopeDigest(scope), scopeDigest(secret.Scope{Org: "o"}))
	// No word can look like the end of one and the beginning of the next.
	require.NotEqual(t, digest([]string{"a", "b"}), digest([]string{"a" + strings.Repeat("\x00", 8) + "b"}))
}
