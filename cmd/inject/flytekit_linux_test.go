package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// v1 is the folder with the tasks of Flyte v1.
const v1 = "../../deploy/flytekit"

// A v1Job is the tasks of job.py, as Flyte v1 starts them in containers.
type v1Job struct {
	home   string
	values map[string]string // by key
	dir    string            // with a folder for each task, see job.py
}

// newV1Job writes what Flyte hands to the containers of the tasks of job.py, and makes a store with
// a value for each of their secrets, at scopes of the ladder.
func newV1Job(t *testing.T) v1Job {
	t.Helper()
	j := v1Job{home: t.TempDir(), dir: t.TempDir(), values: map[string]string{}}
	scopes := [][]string{{"-p", "flytesnacks", "-d", "development"}, {"-d", "development"}, {"-p", "flytesnacks"}, nil}
	for i, mount := range []string{"env-var", "file", "any"} {
		for k, key := range []string{"db-" + mount, "db-" + mount + "-named", "plain-" + mount} {
			// flytekit strips what it reads.
			j.values[key] = "\"ä\\$HOME " + rand.Text()
			create := append([]string{"create", "secret", key, "--value", j.values[key] + "\n"}, scopes[(i+k)%4]...)
			out, err := command(j.home, create...).CombinedOutput()
			require.NoErrorf(t, err, "%s", out)
		}
	}
	python := exec.Command(harness.Flytekit(t, "python"), "-c", "import job, sys; job.prepare(sys.argv[1])", j.dir)
	python.Dir = v1
	python.Env = []string{"HOME=" + t.TempDir(), "PYTHONDONTWRITEBYTECODE=1"}
	out, err := python.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return j
}

// cmd returns the command that runs a task as in its container: by its args, with flytekit in PATH,
// and below inject with the flags, if there are any. The code is in the working folder, but for that
// of a task whose args fetch it.
func (j v1Job) cmd(t *testing.T, task string, flags ...string) *exec.Cmd {
	t.Helper()
	var args []string
	b, err := os.ReadFile(filepath.Join(j.dir, task, "args.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &args))
	path := filepath.Dir(harness.Flytekit(t, "python")) + ":" + os.Getenv("PATH")
	var cmd *exec.Cmd
	if flags == nil {
		cmd = exec.Command(harness.Flytekit(t, args[0]), args[1:]...)
		cmd.Env = []string{"HOME=" + j.home}
	} else {
		flags = append([]string{"run", "--outputs", filepath.Join(j.dir, task, "out")}, flags...)
		cmd = command(j.home, append(append(flags, "--"), args...)...)
	}
	cmd.Env = append(cmd.Env, "PATH="+path, "PYTHONDONTWRITEBYTECODE=1",
		"FLYTE_INTERNAL_EXECUTION_PROJECT=flytesnacks", "FLYTE_INTERNAL_EXECUTION_DOMAIN=development",
		"FLYTE_INTERNAL_EXECUTION_ID=f7a3", "INJECT_FILES_DIR="+t.TempDir()) // not that of this machine
	cmd.Dir = v1
	if args[0] == "pyflyte-fast-execute" {
		cmd.Dir = t.TempDir()
	}
	return cmd
}

// run runs cmd, looks for values in all that it wrote, and returns its output and exit code.
func (j v1Job) run(t *testing.T, cmd *exec.Cmd, task string) (said string, code int) {
	t.Helper()
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	_ = cmd.Run() // the exit code is compared
	texts := map[string]string{"the log": b.String()}
	out := filepath.Join(j.dir, task, "out")
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(out, e.Name()))
		require.NoError(t, err)
		texts[e.Name()] = string(text)
	}
	require.NoError(t, harness.FindLeak(texts, j.values))
	return b.String(), cmd.ProcessState.ExitCode()
}

// An answer is what flytekit answers for a key, as digests, "" for nothing. Variable is the text of
// the variable that the task declares, and AtVariable the file whose path it is.
type answer struct {
	Key, Get, Attribute, File, Variable string
	AtVariable                          string `json:"at_variable"`
}

func answered(t *testing.T, said string) map[string]answer {
	t.Helper()
	all := map[string]answer{}
	for line := range strings.Lines(said) {
		if text, ok := strings.CutPrefix(line, "answer "); ok {
			var a answer
			require.NoError(t, json.Unmarshal([]byte(text), &a))
			all[a.Key] = a
		}
	}
	return all
}

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// wanted returns what a task of v1 must find: every secret by group and key, those of FILE and ANY
// in a file, too, and in the variable that it declares the value or, for FILE and ANY, the path.
func (j v1Job) wanted() map[string]answer {
	all := map[string]answer{}
	for key, value := range j.values {
		whole := digest(value + "\n")
		a := answer{Key: key, Get: digest(value)}
		if strings.HasPrefix(key, "db-") {
			a.Attribute = a.Get
		}
		if !strings.Contains(key, "env-var") {
			a.File = whole
		}
		if strings.HasSuffix(key, "-named") {
			a.Variable = whole
		}
		if key == "db-file-named" || key == "db-any-named" {
			a.AtVariable, a.Variable = whole, ""
		}
		all[key] = a
	}
	return all
}

// The real entrypoints of flytekit, the SDK of Flyte v1, run below inject as in a container of v1.
func TestFlytekit(t *testing.T) {
	t.Parallel()
	version := harness.FlytekitVersion(t)
	for _, what := range []string{
		"pyflyte-execute: secrets.get and get_secrets_file for ENV_VAR, FILE and ANY; error.pb, deck.html",
		"pyflyte-fast-execute with a code bundle, and pod info",
		"pyflyte-map-execute", "the Dockerfile of an ImageSpec", "pyflyte run, on this machine",
	} {
		harness.Ran(t, "flytekit", version, what)
	}
	j := newV1Job(t)
	t.Run("image", func(t *testing.T) { t.Parallel(); testImageSpec(t) })
	t.Run("answers", func(t *testing.T) { t.Parallel(); j.testAnswers(t) })
	t.Run("map", func(t *testing.T) { t.Parallel(); j.testMap(t) })
	t.Run("fails", func(t *testing.T) { t.Parallel(); j.testFails(t) })
	t.Run("refused", func(t *testing.T) { t.Parallel(); j.testRefused(t) })
	t.Run("local", func(t *testing.T) { t.Parallel(); j.testLocal(t) })
}

// An ImageSpec copies the program with its mode and has it as the entrypoint, as the page on Flyte v1
// says. No docker is needed: flytekit writes the Dockerfile and its context.
func testImageSpec(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inject"), []byte("program"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "context"), 0o755))
	page, err := os.ReadFile("../../docs/how-to/flyte-v1.md")
	require.NoError(t, err)
	_, code, _ := strings.Cut(string(page), "```python\n")
	code, _, ok := strings.Cut(code, "```")
	require.True(t, ok)
	cmd := exec.Command(harness.Flytekit(t, "python"), "-c", code+`
import pathlib
from flytekit.image_spec.default_builder import create_docker_context
create_docker_context(image, pathlib.Path("context"))
`)
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	file, err := os.ReadFile(filepath.Join(dir, "context", "Dockerfile"))
	require.NoError(t, err)
	require.Contains(t, string(file), "\nENTRYPOINT [\"/root/inject\", \"run\", \"--\"]\n")
	require.Contains(t, string(file), "\nCOPY --chown=flytekit inject /root/./\n")
	require.Contains(t, string(file), "\nUSER flytekit\n")
	require.Contains(t, string(file), "FLYTE_SDK_RICH_TRACEBACKS=0 ")
	info, err := os.Stat(filepath.Join(dir, "context", "inject"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode())
}

// flytekit answers for every mount, with and without a group and a variable of its own, and with the
// prefixes of v1, v2 and neither. What the task returns, prints and shows in its deck is masked.
func (j v1Job) testAnswers(t *testing.T) {
	for _, c := range []struct{ task, flag, env, prefix string }{
		{"answers", "--task=template.pb", "", "_UNION_"},
		{"fast", "--pod-info=podinfo", "_FSEC_", "_FSEC_"},
		{"answers", "--pod-info=podinfo", "OUR_", "OUR_"},
	} {
		t.Run(c.task+" with "+c.prefix, func(t *testing.T) {
			if testing.Short() && c.env == "OUR_" {
				t.Skip("the prefixes of v1 and v2 are the usual ones")
			}
			cmd := j.cmd(t, c.task, strings.Replace(c.flag, "=", "="+filepath.Join(j.dir, c.task)+"/", 1))
			if c.env != "" {
				cmd.Env = append(cmd.Env, "FLYTE_SECRETS_ENV_PREFIX="+c.env)
			}
			said, code := j.run(t, cmd, c.task)
			require.Zero(t, code, said)
			got := answered(t, said)
			for _, key := range []string{"db-file-named", "db-any-named"} {
				named := got[key]
				require.NotEmpty(t, named.Variable)
				named.Variable = "" // the path, which differs from run to run
				got[key] = named
			}
			require.Equal(t, j.wanted(), got)
			require.Contains(t, said, "prefix "+c.prefix+"\n")
			for _, name := range []string{"outputs.pb", "deck.html"} {
				path := filepath.Join(j.dir, c.task, "out", name)
				b, err := os.ReadFile(path)
				require.NoError(t, err, said)
				for key := range j.values {
					require.Contains(t, string(b), "[REDACTED:"+key+"]", name)
				}
				require.NoError(t, os.Remove(path))
			}
		})
	}
}

// A map task runs once for each input. A variable that is set stays as it is for a command of v1, as
// v1's webhook leaves it, unless a flag or a variable says otherwise.
func (j v1Job) testMap(t *testing.T) {
	const inherited = "inherited"
	for _, c := range []struct {
		name string
		flag string
		env  string
		want string
	}{
		{"keeps", "", "", inherited},
		{"overwrites by a flag", "--on-conflict=overwrite", "", j.values["db-env-var"]},
		{"overwrites by a variable", "", "INJECT_ON_CONFLICT=overwrite", j.values["db-env-var"]},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.env != "" {
				t.Skip("a flag and its variable are one setting")
			}
			flags := []string{"--task", j.dir + "/map/template.pb"}
			if c.flag != "" {
				flags = append(flags, c.flag)
			}
			cmd := j.cmd(t, "map", flags...)
			cmd.Env = append(cmd.Env, "_UNION_PROD_DB-ENV-VAR="+inherited, c.env,
				"BATCH_JOB_ARRAY_INDEX_VAR_NAME=FLYTE_K8S_ARRAY_INDEX", "FLYTE_K8S_ARRAY_INDEX=1")
			said, code := j.run(t, cmd, "map")
			require.Zero(t, code, said)
			require.Equal(t, digest(c.want), answered(t, said)["db-env-var"].Get)
			b, err := os.ReadFile(filepath.Join(j.dir, "map", "out", "outputs.pb"))
			require.NoError(t, err, said)
			returned := "5 [REDACTED:db-env-var]"
			if c.want == inherited {
				returned = "5 inherited"
			}
			require.Contains(t, string(b), returned)
		})
	}
}

// The error of a task is masked, in its log and in error.pb, and the exit code is what it is without
// inject. There the same file has the value.
func (j v1Job) testFails(t *testing.T) {
	for _, fail := range []string{"FLYTE_FAIL_ON_ERROR=true", "FLYTE_FAIL_ON_ERROR=false"} {
		t.Run(fail, func(t *testing.T) {
			if testing.Short() && strings.HasSuffix(fail, "false") {
				t.Skip("0 is the exit code of the other tests")
			}
			file := filepath.Join(j.dir, "fails", "out", "error.pb")
			plain := j.cmd(t, "fails")
			// flytekit's usual log breaks its lines at blanks, and so the value, which is not masked then.
			const lines = "FLYTE_SDK_RICH_TRACEBACKS=0"
			plain.Env = append(plain.Env, "_FSEC_PROD_DB-ENV-VAR="+j.values["db-env-var"], fail, lines)
			out, _ := plain.CombinedOutput() // the exit code is compared
			b, err := os.ReadFile(file)
			require.NoErrorf(t, err, "%s", out)
			require.Contains(t, string(b), j.values["db-env-var"])
			require.NoError(t, os.Remove(file))

			cmd := j.cmd(t, "fails", "--task", j.dir+"/fails/template.pb")
			cmd.Env = append(cmd.Env, fail, lines)
			said, code := j.run(t, cmd, "fails")
			require.Contains(t, said, "ValueError: it is [REDACTED:db-env-var]")
			require.Equal(t, plain.ProcessState.ExitCode(), code, said)
			require.Equal(t, strings.HasSuffix(fail, "true"), code == 1)
			b, err = os.ReadFile(file)
			require.NoError(t, err, said)
			require.Contains(t, string(b), "it is [REDACTED:db-env-var]")
		})
	}
}

// A local run is no command of a container: it finds every secret as a task does, and the variable that
// one for ANY names holds the value.
func (j v1Job) testLocal(t *testing.T) {
	if testing.Short() {
		t.Skip("flytekit takes two seconds to start")
	}
	cmd := command(j.home, "--task", j.dir+"/answers/template.pb", "-p", "flytesnacks", "-d", "development", "--",
		harness.Flytekit(t, "pyflyte"), "run", "job.py", "answers")
	cmd.Dir, cmd.Env = v1, append(cmd.Env, "PYTHONDONTWRITEBYTECODE=1", "COLUMNS=10000",
		"INJECT_FILES_DIR="+t.TempDir())
	require.NoError(t, os.MkdirAll(j.dir+"/local/out", 0o755))
	said, code := j.run(t, cmd, "local")
	require.Zero(t, code, said)
	want, got := j.wanted(), answered(t, said)
	either := want["db-any-named"]
	either.Variable, either.AtVariable = either.File, ""
	want["db-any-named"] = either
	file := got["db-file-named"]
	require.NotEmpty(t, file.Variable)
	file.Variable = "" // the path, as in testAnswers
	got["db-file-named"] = file
	require.Equal(t, want, got)
}

// Versions of groups are refused by name, and so is a prefix that is none: the task does not start.
func (j v1Job) testRefused(t *testing.T) {
	said, code := j.run(t, j.cmd(t, "versions", "--pod-info", j.dir+"/versions/podinfo"), "versions")
	require.Equal(t, 125, code)
	require.Contains(t, said, `db-env-var: invalid: version "v7" was requested`)
	require.Contains(t, said, `db-any: invalid: version "v8" was requested`)

	cmd := j.cmd(t, "versions", "--secret", "g/db-any")
	cmd.Env = append(cmd.Env, "FLYTE_SECRETS_ENV_PREFIX=LD_")
	said, code = j.run(t, cmd, "versions")
	require.Equal(t, 125, code)
	require.Contains(t, said, "invalid: FLYTE_SECRETS_ENV_PREFIX, which this process inherits, is not the beginning")
	require.NotContains(t, said, "answer")
}
