package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"inject/internal/harness"
)

// sdk is the folder with the tasks and the reader of their outputs.
const sdk = "../../deploy/sdk"

// An action is a task to be started as Flyte's executor starts it, in folders of its own.
type action struct {
	dir  string   // has inputs.pb, and the folders out and raw
	argv []string // the command line of a0
}

// newAction returns an action of a task in a module of deploy/sdk. Its paths have a prefix: "" or
// "file://". The arguments come before the task's.
func newAction(t *testing.T, prefix, module, task string, args ...string) action {
	t.Helper()
	dir := t.TempDir()
	for _, folder := range []string{"out", "raw"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, folder), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inputs.pb"), nil, 0o600))
	at := prefix + dir
	argv := []string{
		harness.SDK(t, "a0"), "--inputs", at + "/inputs.pb", "--outputs-path", at + "/out", "--version", "v1",
		"--run-base-dir", at + "/out", "--raw-data-path", at + "/raw", "--checkpoint-path", at + "/raw/checkpoint",
		"--prev-checkpoint", at + "/previous", "--run-name", "r1", "--name", "a1",
	}
	argv = append(argv, args...)
	if !slices.Contains(args, "--pkl") {
		argv = append(argv, "--resolver", "flyte._internal.resolvers.default.DefaultTaskResolver",
			"mod", module, "instance", task)
	}
	return action{dir, argv}
}

// ranFlyte says what the test runs of Flyte's SDK.
func ranFlyte(t *testing.T, what string) {
	t.Helper()
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), what)
}

// inPod makes cmd run where the SDK finds the tasks, with what a pod of Flyte's says. Folders are
// made when a file is written, as in an object store.
func inPod(cmd *exec.Cmd, env ...string) *exec.Cmd {
	cmd.Dir = sdk
	cmd.Env = append(append(cmd.Env, "PYTHONDONTWRITEBYTECODE=1", "FLYTE_DISABLE_SENTRY=true", "_U_ORG_NAME=local",
		"FLYTE_INTERNAL_EXECUTION_PROJECT=p", "FLYTE_INTERNAL_EXECUTION_DOMAIN=development",
		"FSSPEC_FILE_AUTO_MKDIR=true"), env...)
	return cmd
}

// left is what an action left: its exit code as a shell gives it, what it printed, and the content
// of its files by path.
type left struct {
	code           int
	stdout, stderr string
	files          map[string]string
}

// plain returns the command of an action without inject.
func (a action) plain(t *testing.T, value string, env ...string) *exec.Cmd {
	t.Helper()
	env = append([]string{"HOME=" + t.TempDir(), "V=" + value}, env...)
	return inPod(exec.Command(a.argv[0], a.argv[1:]...), env...)
}

// injected returns the command of an action below inject, which takes the secret V from home.
func (a action) injected(home string, env ...string) *exec.Cmd {
	flags := []string{"run", "--secret", "V", "--outputs", a.dir + "/out", "--outputs", a.dir + "/raw", "--"}
	return inPod(command(home, append(flags, a.argv...)...), env...)
}

// requireCode requires an exit code.
func requireCode(t *testing.T, code int, l left) {
	t.Helper()
	require.Equal(t, code, l.code, l.stderr)
}

// run runs cmd, a command of the action.
func (a action) run(t *testing.T, cmd *exec.Cmd) left {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the exit code is compared
	return a.left(t, cmd, stdout.String(), stderr.String())
}

// left returns what cmd, which has ended, left.
func (a action) left(t *testing.T, cmd *exec.Cmd, stdout, stderr string) left {
	t.Helper()
	l := left{cmd.ProcessState.ExitCode(), stdout, stderr, map[string]string{}}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		l.code = 128 + int(status.Signal())
	}
	l.stderr = strings.ReplaceAll(l.stderr, a.dir, "DIR")
	for _, folder := range []string{"out", "raw"} {
		err := filepath.WalkDir(filepath.Join(a.dir, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			l.files[strings.TrimPrefix(path, a.dir+"/")] = string(b)
			return err
		})
		require.NoError(t, err)
	}
	return l
}

// texts returns all that was left, by name.
func (l left) texts() map[string]string {
	texts := maps.Clone(l.files)
	texts["stdout"], texts["stderr"] = l.stdout, l.stderr
	return texts
}

// noLeak fails the test if there is a value in what was left.
func (l left) noLeak(t *testing.T, value string) {
	t.Helper()
	require.NoError(t, harness.FindLeak(l.texts(), map[string]string{"V": value}))
}

// ofTask returns what the task printed to stderr, without the lines of inject.
func ofTask(stderr string) string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "[WARN]  inject: ") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// actionOf is newAction for a task of job.py with plain paths.
func actionOf(t *testing.T, task string) action {
	t.Helper()
	return newAction(t, "", "job", task)
}

// mask is what stands for the secret V.
const mask = "[REDACTED:V]"

// same requires that the action leaves below inject what it leaves without: the same exit code,
// output and files, but with masks. Without inject it has the mask as its secret. files are those
// that have the value in them.
func (a action) same(t *testing.T, want, got left, value string, files ...string) {
	t.Helper()
	got.noLeak(t, value)
	got.stderr = ofTask(got.stderr)
	require.Equal(t, want.code, got.code, got.stderr)
	require.Equal(t, want.texts(), got.texts())
	require.Equal(t, files, slices.Sorted(maps.Keys(want.files)))
	for _, name := range files {
		require.Contains(t, want.files[name], mask, name)
	}
}

// clear removes what the action left.
func (a action) clear(t *testing.T) {
	t.Helper()
	for _, folder := range []string{"/out", "/raw"} {
		require.NoError(t, os.RemoveAll(a.dir+folder))
		require.NoError(t, os.Mkdir(a.dir+folder, 0o755))
	}
}

// However a task of Flyte's ends, it ends so below inject, too.
func TestA0Ends(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "a0: results, exceptions, exits, reports")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	for i, c := range []struct {
		task, how string
		code      int
		files     []string
	}{
		{"ends", "caused", 0, []string{"out/error.pb"}},
		{"ends", "reported", 0, []string{"out/outputs.pb", "out/report.html"}},
		{"ends", "sys.exit(3)", 3, nil},
		{"ends", "group", 0, []string{"out/error.pb"}},
		{"ends", "for good", 0, []string{"out/error.pb"}},
		{"ends", "user error", 0, []string{"out/error.pb"}},
		{"ends", "wrong type", 0, []string{"out/error.pb"}},
		{"ends", "import", 1, []string{"out/error.pb"}},
		{"ends", "sys.exit", 1, nil},
		{"ends", "os._exit", 7, nil},
		{"ends", "killed", 137, []string{"out/report.html"}},
		{"ends", "reported and raised", 0, []string{"out/error.pb", "out/report.html"}},
		{"ends_in_thread", "returned", 0, []string{"out/outputs.pb"}},
		{"ends_in_thread", "raised", 0, []string{"out/error.pb"}},
		{"parent", "forward", 0, []string{"out/outputs.pb"}},
	} {
		if testing.Short() && i > 1 {
			break // each takes two starts of Python
		}
		t.Run(c.task+" "+c.how, func(t *testing.T) {
			t.Parallel()
			a := actionOf(t, c.task)
			want := a.run(t, a.plain(t, mask, "HOW="+c.how))
			requireCode(t, c.code, want)
			a.clear(t)
			got := a.run(t, a.injected(home, "HOW="+c.how))
			a.same(t, want, got, value, c.files...)
		})
	}
}

// What a0 prints and writes about an exception has no part of a value with several lines.
func TestA0EndsWithLines(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestA0Ends has values of one line")
	}
	value := "it's \"first\"-" + rand.Text() + "\\\t\n\x01 ä second-" + rand.Text() + "\n'third'\x7f-" + rand.Text()
	home := homeWith(t, value)
	for _, how := range []string{"group", "wrong type", "reported and raised"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			a := actionOf(t, "ends")
			got := a.run(t, a.injected(home, "HOW="+how))
			requireCode(t, 0, got)
			require.Contains(t, got.files["out/error.pb"], mask)
			got.noLeak(t, value)
			for line := range strings.Lines(value) {
				got.noLeak(t, strings.Trim(line, "\n"))
			}
		})
	}
}

// stop starts cmd, a command of the action, and sends it a signal to stop when ready returns true
// for what it has printed.
func (a action) stop(t *testing.T, cmd *exec.Cmd, ready func(stdout string) bool) left {
	t.Helper()
	var stdout, stderr harness.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	require.Eventually(t, func() bool { return ready(stdout.String()) }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(unix.SIGTERM))
	_ = cmd.Wait() // the exit code is compared
	return a.left(t, cmd, stdout.String(), stderr.String())
}

// A task that is stopped, as kubelet stops it, may still return. Its outputs are masked, as is what
// another task has written before it was stopped.
func TestA0Stopped(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestLeftoverInGrace stops other tasks")
	}
	ranFlyte(t, "a0: SIGTERM")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	for _, c := range []struct {
		how   string
		code  int
		files []string
	}{
		{"handled", 0, []string{"out/outputs.pb", "out/report.html"}},
		{"", 143, []string{"out/report.html"}},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			a := actionOf(t, "stopped")
			ready := func(stdout string) bool { return stdout == "ready\n" }
			want := a.stop(t, a.plain(t, mask, "HOW="+c.how), ready)
			requireCode(t, c.code, want)
			a.clear(t)
			got := a.stop(t, a.injected(home, "HOW="+c.how), ready)
			a.same(t, want, got, value, c.files...)
		})
	}
}

// A retry is another start: it resolves again, so that a secret that was changed meanwhile is in
// force. The checkpoint of the attempt before has a mask in it, which the retry loads. The paths
// are addresses here.
func TestA0Retry(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a retry is a start as any other")
	}
	ranFlyte(t, "a0: retries, checkpoints")
	first, second := "\"ä\\ "+rand.Text(), "\\<"+rand.Text()
	home := homeWith(t, first)
	a := newAction(t, "file://", "job", "retried")
	failed := a.run(t, a.injected(home, "FLYTE_ATTEMPT_NUMBER=0"))
	requireCode(t, 0, failed)
	failed.noLeak(t, first)
	require.Equal(t, "saved with "+mask, failed.files["raw/checkpoint"])
	require.Contains(t, failed.files["out/error.pb"], "again with "+mask)
	require.Contains(t, failed.stdout, fmt.Sprintf("%x", sha256.Sum256([]byte(first))))

	require.NoError(t, command(home, "update", "secret", "V", "--value", second).Run())
	b := newAction(t, "file://", "job", "retried", "--prev-checkpoint", "file://"+a.dir+"/raw/checkpoint")
	want := b.run(t, b.plain(t, mask, "FLYTE_ATTEMPT_NUMBER=1"))
	b.clear(t)
	got := b.run(t, b.injected(home, "FLYTE_ATTEMPT_NUMBER=1"))
	require.Contains(t, want.files["out/outputs.pb"], mask+" after saved with "+mask)
	require.Contains(t, got.stdout, fmt.Sprintf("%x", sha256.Sum256([]byte(second))))
	want.stdout = got.stdout
	b.same(t, want, got, second, "out/outputs.pb", "raw/checkpoint")
}

// a0 executes inject, if _F_EXEC_WRAPPER says so, and inject starts a0 again, with the same
// arguments. The image's entrypoint may be inject, too.
func TestA0ExecWrapper(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "a0: _F_EXEC_WRAPPER")
	value := "\"ä\\ <&$HOME $$" + rand.Text()
	home := homeWith(t, value)
	a := actionOf(t, "ends")
	wrapper := []string{
		"_F_EXEC_WRAPPER=$BIN run --secret V --outputs $OUT/out --", "BIN=" + binary, "OUT=" + a.dir, "HOME=" + home,
		"PATH=" + os.Getenv("PATH"),
	}
	want := a.run(t, a.plain(t, mask, "HOW=reported"))
	a.clear(t)
	cmd := a.injected(home, append(wrapper, "HOW=reported")...)
	a.same(t, want, a.run(t, cmd), value, "out/outputs.pb", "out/report.html")
	if testing.Short() {
		return // each takes three starts of Python
	}

	a.clear(t)
	want = a.run(t, a.plain(t, mask, "HOW=os._exit"))
	require.Equal(t, 7, want.code)
	a.same(t, want, a.run(t, a.plain(t, "", append(wrapper, "HOW=os._exit")...)), value)
}

// A task that starts others waits for Flyte's control plane, which is not there. What it has
// written for them until it is stopped is checked: the inputs of a task and of a traced function,
// and the outputs of the latter.
func TestA0WithoutControlPlane(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("seven starts of Python")
	}
	ranFlyte(t, "a0: tasks that await others, traces, without a control plane")
	value := "\"ä\\ <&" + rand.Text()
	home := homeWith(t, value)
	for _, c := range []struct {
		how, wait string // until there are n files like it
		n         int
		masked    string
	}{
		{"", "/inputs.pb", 3, ""},
		{"trace", "/outputs.pb", 1, "/outputs.pb"},
		{"trace with", "/outputs.pb", 1, "/outputs.pb"},
		{"raised", "/inputs.pb", 3, ""},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			a := actionOf(t, "parent")
			ready := func(string) bool {
				written, err := filepath.Glob(a.dir + "/out/*" + c.wait)
				for _, path := range written {
					if info, err := os.Stat(path); err != nil || info.Size() == 0 {
						return false
					}
				}
				return err == nil && len(written) == c.n
			}
			env := []string{"HOW=" + c.how, "_U_EP_OVERRIDE=127.0.0.1:1"}
			got := a.stop(t, a.injected(home, env...), ready)
			requireCode(t, 143, got)
			got.noLeak(t, value)
			inputs, masked := 0, 0
			for name, text := range got.files {
				if strings.HasSuffix(name, "/inputs.pb") {
					inputs++
				}
				if strings.Contains(text, mask) {
					require.True(t, strings.HasSuffix(name, c.masked))
					masked++
				}
			}
			switch c.how {
			case "trace with", "raised":
				require.Zero(t, inputs)
				const why = "the inputs of another task, which would compute with the mask"
				require.Equal(t, c.n, strings.Count(got.stderr, why))
				return
			case "trace":
				require.Equal(t, 1, masked)
			default:
				require.Equal(t, c.n, inputs)
			}

			a.clear(t)
			want := a.stop(t, a.plain(t, mask, env...), ready)
			require.Equal(t, want.code, got.code)
			require.Equal(t, want.files, got.files)
		})
	}
}

// flyte run --local runs a task and those that it awaits in one process. Their results are masked in
// the frame that is drawn around them.
func TestFlyteRunLocal(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "flyte run --local: tasks that await others, traces")
	value := "\"ä\\<&" + rand.Text()
	home := homeWith(t, value)
	cmd := command(home, "run", "--secret", "V", "--", harness.SDK(t, "flyte"), "run", "--local", "job.py", "parent")
	out, err := inPod(cmd, "COLUMNS=200", "TMPDIR="+t.TempDir()).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	for _, text := range []string{"0 ", "1 ", "2 ", "x "} {
		require.Contains(t, string(out), "'"+text+mask+"'")
	}
	require.NoError(t, harness.FindLeak(map[string]string{"out": string(out)}, map[string]string{"V": value}))
}

// The declared list of a TaskEnvironment comes to inject in the TaskTemplate that the SDK makes of it,
// or in the annotations that Flyte's executor makes of that. Both place the same.
func TestDeclaredBySDK(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "TaskEnvironment(secrets=...): TaskTemplate, --tgz, --pkl")
	folder := t.TempDir()
	cmd := inPod(exec.Command(harness.SDK(t, "python"), "declared.py", folder), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)

	home := t.TempDir()
	values, keyOf := map[string]string{}, map[string]string{} // the second by SHA-256
	create := func(key string, args ...string) {
		value := key + " \"ä\\ <&" + rand.Text()
		args = append([]string{"create", "secret", key, "--value", value}, args...)
		require.NoError(t, command(home, args...).Run())
		values[key], keyOf[fmt.Sprintf("%x", sha256.Sum256([]byte(value)))] = value, key
	}
	for _, key := range []string{"api-key", "db-password", "cert", "key", "both", "token"} {
		create(key)
	}
	create("token", "-p", "p", "-d", "development") // at the scope that the task is in
	for name, declared := range map[string]int{"text": 1, "one": 1, "many": 7, "empty": 0, "none": 0} {
		dir := filepath.Join(folder, name)
		labels := "organization=\"flyte\"\nproject=\"p\"\ndomain=\"development\"\n"
		if declared > 0 {
			labels += "inject-flyte-secrets=\"true\"\n"
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "labels"), []byte(labels), 0o600))
		annotations, err := os.ReadFile(filepath.Join(dir, "annotations"))
		require.NoError(t, err)
		require.Equal(t, declared, strings.Count(string(annotations), "\n"))
		for _, source := range []string{"--task=" + dir + "/template.pb", "--pod-info=" + dir} {
			if declared == 0 {
				out, err := command(home, source, "--require-secrets", "--", "true").CombinedOutput()
				require.NoErrorf(t, err, "%s", out)
				continue
			}
			out, err := command(home, "explain", source, "-o", "annotations").Output()
			require.NoError(t, err)
			quoted := regexp.MustCompile(`: (.*)`).ReplaceAllString(string(out), `="$1"`)
			require.Equal(t, string(annotations), quoted, source)
		}
	}

	want := map[string]string{
		"API_KEY":                 "api-key",
		"PROD_DB_PASSWORD":        "db-password",
		"_UNION_PROD_DB-PASSWORD": "db-password",
		"_FSEC_PROD_DB-PASSWORD":  "db-password",
		"A_TOKEN":                 "token",
		"TWICE_TOKEN":             "token",
		"_UNION_TWICE_TOKEN":      "token",
		"_FSEC_TWICE_TOKEN":       "token",
		"BOTH_OF_THEM":            "both", // the SDK drops mount beside as_env_var
		"cert":                    "cert",
		"key":                     "key",
		"my-team/key":             "key",
	}
	for name, source := range map[string]string{
		"many": "--task=" + folder + "/many/template.pb", "pickled": "--pod-info=" + folder + "/many",
	} {
		dir := filepath.Join(folder, name)
		b, err := os.ReadFile(filepath.Join(dir, "args.json"))
		require.NoError(t, err)
		var args []string
		require.NoError(t, json.Unmarshal(b, &args))
		args[0] = harness.SDK(t, args[0])
		cmd := inPod(command(home, append([]string{"run", source, "--outputs", dir, "--"}, args...)...),
			"INJECT_FILES_DIR="+t.TempDir()) // not that of this machine
		cmd.Dir = t.TempDir() // the code is in args
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdout, err := cmd.Output()
		require.NoErrorf(t, err, "%s", stderr.String())
		seen, got := map[string]string{}, map[string]string{}
		require.NoError(t, json.Unmarshal(stdout, &seen))
		for place, sum := range seen {
			if key, ok := keyOf[sum]; ok {
				got[place] = key
			}
		}
		require.Equal(t, want, got, name)
		outputs, err := os.ReadFile(filepath.Join(dir, "outputs.pb"))
		require.NoError(t, err)
		require.Contains(t, string(outputs), "hello [REDACTED:token]")
		texts := map[string]string{"outputs.pb": string(outputs), "stderr": stderr.String()}
		require.NoError(t, harness.FindLeak(texts, values))
	}
}
