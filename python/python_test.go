// Package python_test builds the wheel of flyteplugins-inject, installs it, and runs Flyte's real
// command line with it and the real inject.
package python_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// bin has the real inject, and plugin the installed wheel.
var bin, plugin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "inject-python")
	if err != nil {
		panic(err)
	}
	bin, plugin = filepath.Join(dir, "bin"), filepath.Join(dir, "plugin")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-o", bin+"/inject",
		"../cmd/inject")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	must(build)
	// Without the SDK each test skips, or fails in CI.
	if pip, err := filepath.Abs("../bin/sdk/bin/pip"); err == nil && exists(pip) {
		offline := []string{"--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"}
		wheel := append([]string{"wheel", "--no-build-isolation", "--wheel-dir", dir}, offline...)
		must(exec.Command(pip, append(wheel, ".")...))
		wheels, err := filepath.Glob(dir + "/*.whl")
		if err != nil || len(wheels) != 1 {
			panic(fmt.Sprint("wheels: ", wheels, err))
		}
		install := append([]string{"install", "--target", plugin}, offline...)
		must(exec.Command(pip, append(install, wheels...)...))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func must(cmd *exec.Cmd) {
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		panic(err)
	}
}

// A user has a home of their own, with a store of secrets.
type user struct {
	t      *testing.T
	home   string
	env    []string
	values map[string]string // of the secrets that were created, by name
}

// newUser returns a user who has inject and Flyte's command line with the plugin.
func newUser(t *testing.T) *user {
	t.Helper()
	sdk := filepath.Dir(harness.SDK(t, "flyte"))
	u := &user{t: t, home: t.TempDir(), values: map[string]string{}}
	u.env = []string{
		"HOME=" + u.home, "PATH=" + bin + ":" + sdk + ":" + os.Getenv("PATH"), "PYTHONPATH=" + plugin,
		"INJECT_FILES_DIR=" + u.home + "/files", "FLYTE_DISABLE_SENTRY=true",
		"PYTHONDONTWRITEBYTECODE=1", "COLUMNS=200",
	}
	return u
}

// create stores a new random value, which is in values afterwards.
func (u *user) create(key string, flags ...string) {
	u.t.Helper()
	// Without blanks, since Flyte breaks lines, and inject finds only broken words.
	u.values[key] = "'\"$X`id`\\%é" + rand.Text()
	args := append([]string{"create", "secret", key, "--value", u.values[key]}, flags...)
	_, stderr, code := u.run(bin+"/inject", args...)
	require.Zero(u.t, code, stderr)
}

// own are the secrets of the environment env in job.py, and of what it depends on.
var own = []string{"own-key", "renamed", "in-file", "DEPENDENCY", "DEEPEST"}

func (u *user) createOwn() {
	u.t.Helper()
	for _, key := range own {
		u.create(key)
	}
}

func (u *user) command(program string, args ...string) *exec.Cmd {
	u.t.Helper()
	if program == "flyte" {
		program = harness.SDK(u.t, program)
	}
	cmd := exec.CommandContext(u.t.Context(), program, args...)
	cmd.Dir, cmd.Env = "testdata", u.env
	return cmd
}

// run runs a program in testdata. No value of a secret may be in what it prints.
func (u *user) run(program string, args ...string) (stdout, stderr string, code int) {
	u.t.Helper()
	var out, errs bytes.Buffer
	cmd := u.command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its code is what is looked at
	require.NoError(u.t, harness.FindLeak(map[string]string{"stdout": out.String(), "stderr": errs.String()}, u.values))
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// with returns a user who has other variables.
func (u *user) with(env ...string) *user {
	other := *u
	other.env = append(slices.Clip(u.env), env...)
	return &other
}

// sum returns what the tasks print of a secret's value.
func (u *user) sum(key string) string {
	return fmt.Sprintf("%x [REDACTED:%s]", sha256.Sum256([]byte(u.values[key])), key)
}

// quoted is the same with the value in Python's quotes, too.
func (u *user) quoted(key string) string {
	return strings.Replace(u.sum(key), " ", " '", 1) + "' [REDACTED:" + key + "]\n"
}

// A task that is run locally finds the secrets of its environment, of those that this depends on, and
// of all tasks that it calls, whichever way its code names them. It finds them at the project and
// domain of the command line, or of Flyte's configuration.
func TestLocalRun(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	variables := map[string]string{
		"NEW_NAME": "renamed", "DEPENDENCY": "DEPENDENCY", "DEEPEST": "DEEPEST", "PROD_CALLED_KEY": "called-key",
		"LISTED": "LISTED", "IN_CLASS": "IN_CLASS", "BOUND": "BOUND", "HELPER": "HELPER",
	}
	for _, key := range variables {
		u.create(key)
	}
	u.create("in-file")
	all := func(stdout string) {
		t.Helper()
		for name, key := range variables {
			require.Contains(t, stdout, name+" "+u.quoted(key))
		}
		require.Contains(t, stdout, "in-file "+u.sum("in-file")+"\n")
		require.Equal(t, 2, strings.Count(stdout, "OWN_KEY "+u.quoted("own-key")))
		require.Regexp(t, `Outputs: ActionOutputs\(o0=.17 \[REDACTED:own-key\]`, stdout)
	}

	u.create("own-key")
	stdout, stderr, code := u.run("flyte", "run", "--local", "job.py", "main", "--n", "7")
	require.Zero(t, code, stderr)
	all(stdout)
	require.Equal(t, "  > Launching local execution...\n", stderr)
	args := "['run', '--local', 'job.py', 'main', '--n', '7']"
	require.Equal(t, 2, strings.Count(stdout, "imported job "+args), "once to see what is declared")
	require.Contains(t, stdout, "in job "+args+" []\n")

	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "run --local, with flyteplugins-inject")
	if testing.Short() { // each start of Flyte takes a second
		return
	}

	const project = "it's-a-project-é"
	u.create("own-key", "-p", project, "-d", "production")
	config := filepath.Join(u.home, "config.yaml")
	text := "admin: {endpoint: dns:///localhost:1, insecure: true}\ntask: {project: not-this, domain: production}\n"
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	stdout, stderr, code = u.run("flyte", "-c", config, "run", "--local", "-p", project, "job.py", "main", "--n", "7")
	require.Zero(t, code, stderr)
	all(stdout)
}

// long skips a test that starts Flyte's command line many times.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("each start takes a second")
	}
	t.Parallel()
}

// The exit code is the task's, or that of inject, which says why.
func TestLocalRunFails(t *testing.T) {
	long(t)
	u := newUser(t)
	u.createOwn()
	for _, c := range []struct {
		name, args, want string
		code             int
	}{
		{"the task raises", "--local job.py fail", "ValueError: [REDACTED:own-key]", 1},
		{"the task ends the process", "--local -p --secret=HELPER job.py leave --code 7", "imported job", 7},
		{"a signal ends the process", "--local job.py kill", "imported job", 143},
		{
			"secrets are missing", "--local job.py missing",
			"inject: NOT_THERE_EITHER: secret not found\n", 125,
		},
		{
			"two secrets for one variable", "--local job.py clashing",
			"a-b and a_b are both declared for the variable A_B", 125,
		},
		{
			"a key that inject would read as another", "--local job.py slashed",
			"no secret of inject is called 'a/own-key'", 1,
		},
		{"a project that inject does not take", "--local -p a__b job.py leave --code 7", `project "a__b"`, 125},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u := u.with("INJECT_FILES_DIR=" + t.TempDir())
			u.t = t
			stdout, stderr, code := u.run("flyte", append([]string{"run"}, strings.Fields(c.args)...)...)
			require.Equal(t, c.code, code, stdout+stderr)
			require.Contains(t, stdout+stderr, c.want)
			require.NotContains(t, stdout, "the task ran")
		})
	}
}

// changing are the parts of Flyte's output that differ from run to run.
var changing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-z]{25}\b|\d\d:\d\d:\d\d\.\d{6}`)

// like requires that a command does the same with the plugin as without it, but for what it says.
func (u *user) like(says string, args ...string) {
	u.t.Helper()
	stdout, stderr, code := u.run("flyte", args...)
	want, wantErr, wantCode := u.with("PYTHONPATH=").run("flyte", args...)
	require.Equal(u.t, wantCode, code, stderr)
	require.Equal(u.t, changing.ReplaceAllString(want, "…"), changing.ReplaceAllString(stdout, "…"))
	require.Equal(u.t, says+changing.ReplaceAllString(wantErr, "…"), changing.ReplaceAllString(stderr, "…"))
}

// Where nothing is to be looked up, and where Flyte fails by itself, nothing is different.
func TestUnchanged(t *testing.T) {
	long(t)
	for _, args := range []string{
		"run --local job.py main --help", "run --local job.py plain --n 4", "run --local job.py no_such_task",
		"run --local broken.py main", "run -p project -d staging job.py main",
		"--image-builder remote build images.py env", "build images.py plain",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			newUser(t).like("", strings.Fields(args)...)
		})
	}
}

// Without inject the plugin only says so.
func TestWithoutInject(t *testing.T) {
	long(t)
	const says = "flyteplugins-inject: inject is not on PATH, so these secrets are not looked up: " +
		"NOT_THERE, NOT_THERE_EITHER\n"
	task := []string{"run", "--local", "job.py", "missing"}
	newUser(t).with("PATH=/usr/bin:/bin").like(says, task...)
	for name, prepare := range map[string]func(path string) error{
		"a folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"a text":   func(path string) error { return os.WriteFile(path, []byte("text"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, dir := newUser(t), t.TempDir()
			require.NoError(t, prepare(dir+"/inject"))
			stdout, stderr, code := u.with("PATH="+dir).run("flyte", task...)
			require.Zero(t, code)
			require.Contains(t, stderr, says)
			require.Contains(t, stdout, "the task ran")
		})
	}
	t.Run("a program that cannot be run", func(t *testing.T) {
		t.Parallel()
		u, dir := newUser(t), t.TempDir()
		require.NoError(t, os.WriteFile(dir+"/inject", []byte("\x7fELF"), 0o700))
		stdout, stderr, code := u.with("PATH="+dir).run("flyte", "run", "--local", "job.py", "missing")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "inject cannot be run: Exec format error")
		require.NotContains(t, stdout, "the task ran")
	})
}

// An inject that the command runs under, started by the user or by the plugin, is the only one.
func TestUnderInject(t *testing.T) {
	long(t)
	u := newUser(t)
	store := t.TempDir()
	for _, key := range append(own, "other") {
		u.values[key] = rand.Text()
		require.NoError(t, os.WriteFile(filepath.Join(store, key), []byte(u.values[key]), 0o600))
	}
	task := []string{"run", "--local", "job.py", "leave", "--code", "7"}
	under := append([]string{"--store", "dir://" + store, "--secret", "other", "--", "flyte"}, task...)
	_, stderr, code := u.run(bin+"/inject", under...)
	require.Equal(t, 7, code)
	require.Contains(t, stderr, "flyteplugins-inject: the inject that this runs under was not asked for "+
		"DEEPEST, DEPENDENCY, NEW_NAME, OWN_KEY\n")

	under = append([]string{
		"--secret", "own-key", "--secret", "DEPENDENCY", "--secret", "DEEPEST", "--secret", "renamed=NEW_NAME",
		"--", "flyte",
	}, task...)
	_, stderr, code = u.with("INJECT_STORE=dir://"+store).run(bin+"/inject", under...)
	require.Equal(t, 7, code)
	require.NotContains(t, stderr, "flyteplugins-inject")

	// inject's own mark is not set if it masks nothing.
	_, stderr, code = u.with("INJECT_STORE=dir://"+store, "INJECT_NO_REDACT=true").run("flyte", task...)
	require.Equal(t, 7, code, stderr)
}

// Flyte's code that is called by another program does not replace that program.
func TestOtherProgram(t *testing.T) {
	long(t)
	u := newUser(t)
	script := `import sys; from click.testing import CliRunner; from flyte.cli.main import main
print(CliRunner().invoke(main, ["run", "--local", "job.py", "missing"]).exit_code, "after")`
	stdout, stderr, code := u.run(harness.SDK(t, "python"), "-c", script)
	require.Zero(t, code, stderr)
	require.Equal(t, "0 after\n", stdout)
}

// The outputs of a tracked run leave this machine by a way that inject does not see.
func TestTracked(t *testing.T) {
	long(t)
	u := newUser(t)
	u.createOwn()
	_, stderr, code := u.run("flyte", "--endpoint", "localhost:1", "--insecure", "run", "-p", "p", "-d", "development",
		"--tracked", "job.py", "leave", "--code", "7")
	require.Equal(t, 7, code, stderr)
	require.Equal(t, 1, strings.Count(stderr, "flyteplugins-inject: --tracked sends "))
}

// A task has the terminal: it can ask, and Ctrl-C reaches it.
func TestTerminal(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	u.createOwn()
	cmd := u.command("flyte", "run", "--local", "job.py", "ask")
	cmd.Env = append(cmd.Env, "TERM=xterm")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 200})
	require.NoError(t, err)
	defer tty.Close() //nolint:errcheck // the test is over
	require.NoError(t, tty.SetDeadline(time.Now().Add(time.Minute)))
	var screen strings.Builder
	until := func(text string) {
		t.Helper()
		for b := make([]byte, 4096); !strings.Contains(screen.String(), text); {
			n, err := tty.Read(b)
			screen.Write(b[:n])
			require.NoErrorf(t, err, "%q is not in %q", text, &screen)
		}
	}
	until("your name? ")
	_, err = tty.WriteString("Ada\r")
	require.NoError(t, err)
	until("hello Ada on a terminal [REDACTED:own-key]")
	until("and then? ")
	_, err = tty.WriteString("\x03")
	require.NoError(t, err)
	rest, _ := io.ReadAll(tty) // it ends with an error, since the other side is closed
	_ = cmd.Wait()
	require.Equalf(t, 1, cmd.ProcessState.ExitCode(), "%s%s", &screen, rest)
	require.Contains(t, string(rest), "Aborted")
	require.NoError(t, harness.FindLeak(map[string]string{"screen": screen.String() + string(rest)}, u.values))
}

// docker shows what Flyte gives to it, and says that no image exists. Building one of Flyte's images
// for real needs their registry.
const docker = `#!/bin/sh
# A shell has no variable with a hyphen in its name.
variable() { tr '\0' '\n' < "/proc/$$/environ" | sed -n "s/^$1=//p" | tr -d '\n'; }
case "$*" in
"buildx version") ;;
"buildx ls") echo flytex ;;
"buildx inspect flytex") echo 'network="host"' ;;
"buildx imagetools inspect "*) echo "not found" >&2; exit 1 ;;
"buildx build "*)
  while [ $# -gt 0 ]; do
    case "$1 $2" in
    "--secret id="*) name=${2#*,env=}; echo "secret $name $(variable "$name" | sha256sum | cut -c -64)" ;;
    "--tag "*) echo "building ${2%%:*}" ;;
    esac
    shift
  done ;;
*) exit 1 ;;
esac
`

// A local build finds the secrets that its images mount in the variables that Flyte's builder reads.
func TestBuild(t *testing.T) {
	t.Parallel()
	commands := []string{"build --all images.py", "build images.py env"}
	if testing.Short() {
		commands = commands[:1]
	}
	for _, args := range commands {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			u, dir := newUser(t), t.TempDir()
			require.NoError(t, os.WriteFile(dir+"/docker", []byte(docker), 0o700))
			u = u.with("PATH=" + dir + ":" + bin + ":/usr/bin:/bin")
			stdout, stderr, code := u.run("flyte", strings.Fields(args)...)
			require.Equal(t, 125, code, stdout)
			require.Contains(t, stderr, "inject: APT_TOKEN: secret not found\n")
			keys := map[string]string{
				"MY-TOKEN": "my-token", "AWS_ID": "id", "PLAIN": "PLAIN", "APT_TOKEN": "APT_TOKEN",
			}
			for _, key := range keys {
				u.create(key)
			}
			stdout, stderr, code = u.run("flyte", strings.Fields(args)...)
			require.Zero(t, code, stderr)
			for name, key := range keys {
				require.Contains(t, stdout, fmt.Sprintf("secret %s %x\n", name, sha256.Sum256([]byte(u.values[key]))))
			}
			require.Equal(t, len(keys), strings.Count(stdout, "\nsecret "))
		})
	}
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"),
		"build, up to docker's command line, with flyteplugins-inject")
}

// The package passes Python's checks, and its users' type checkers know its types.
func TestTypes(t *testing.T) {
	long(t)
	u := newUser(t)
	for _, args := range []string{
		"ruff check --no-cache .", "ruff format --no-cache --check .", "mypy --cache-dir " + u.home + " src",
	} {
		words := strings.Fields(args)
		cmd := exec.CommandContext(t.Context(), harness.SDK(t, words[0]), words[1:]...)
		out, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	stdout, _, _ := u.run(harness.SDK(t, "mypy"), "--cache-dir", u.home, "--strict", "-c",
		"from flyteplugins.inject import run; reveal_type(run)")
	require.Contains(t, stdout, `Revealed type is "def (command: click.core.Command) -> click.core.Command"`)
}
