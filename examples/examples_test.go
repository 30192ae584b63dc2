// Package examples_test runs the examples as their README says.
package examples_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
)

// bin is the folder of the real inject, built once.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "inject-examples")
	if err != nil {
		panic(err)
	}
	bin = dir
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-o",
		filepath.Join(dir, "inject"), "../cmd/inject")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s", out)
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// A user has inject, a home of their own, and a secret whose value is random and awkward.
type user struct {
	home, value string
	env         []string
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{home: t.TempDir(), value: "'\"$HOME `id` \\ %s é $$ $(X) " + rand.Text()}
	u.env = []string{"HOME=" + u.home, "TMPDIR=" + u.home, "PATH=" + bin + ":" + os.Getenv("PATH")}
	return u
}

// run runs a command as it is typed, in the root of the repository.
func (u *user) run(command, stdin string, env ...string) (stdout, stderr string, code int) {
	cmd := exec.Command("sh", "-c", command)
	var out, err bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdin = "..", append(u.env, env...), strings.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run() // its code is what is looked at
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// holds reports whether the value is in text, as it is or as a program may write it.
func (u *user) holds(text string) bool {
	quoted := fmt.Sprintf("%q", u.value)
	forms := []string{u.value, quoted[1 : len(quoted)-1], u.value[len(u.value)-26:]}
	for i := range 3 { // three bytes are four letters, and it may begin at each of the three
		encoded := base64.StdEncoding.EncodeToString([]byte("   "[:i] + u.value))
		forms = append(forms, encoded[4:len(encoded)-4])
	}
	for _, form := range forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// left returns all that is in the home but the store, and how many files that is.
func (u *user) left(t *testing.T) (text string, files int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(u.home, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasPrefix(path, u.home+"/.") {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			text, files = text+path+"\n"+string(b)+"\n", files+1
		}
		return err
	}))
	return text, files
}

// commands returns what the README has in backquotes and holds a text, in order.
func commands(t *testing.T, holds string) []string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var found []string
	for _, code := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(string(readme), -1) {
		if strings.Contains(code[1], holds) {
			found = append(found, code[1])
		}
	}
	require.NotEmpty(t, found, holds)
	return found
}

// withSecret returns a user who has created the secret with the command in the README.
func withSecret(t *testing.T) *user {
	t.Helper()
	u := newUser(t)
	_, stderr, code := u.run(commands(t, "inject create")[0], u.value)
	require.Zero(t, code, stderr)
	return u
}

func TestPython(t *testing.T) {
	harness.Need(t, "python3")
	u := withSecret(t)
	command := commands(t, "task.py")[0]
	stdout, stderr, code := u.run(command, "", "INJECT_NO_REDACT=1")
	require.Zero(t, code, stderr)
	require.True(t, u.holds(stdout), "the search finds the value where nothing is masked")

	stdout, stderr, code = u.run(command, "")
	require.Zero(t, code, stderr)
	require.Equal(t, fmt.Sprintf("The secret has %d characters.\nCarelessly: [REDACTED:MY_SECRET_KEY]\n",
		len([]rune(u.value))), stdout)
	require.Empty(t, stderr)
	require.False(t, u.holds(stdout))
}

// With the SDK the task declares what task.yaml does.
func TestPythonSDK(t *testing.T) {
	python := harness.SDK(t, "python")
	u := newUser(t)
	_, stderr, code := u.run("cd examples/python && "+python+" ../../deploy/sdk/serialize.py task t1 "+u.home, "",
		"PYTHONDONTWRITEBYTECODE=1", "FLYTE_DISABLE_SENTRY=true")
	require.Zero(t, code, stderr)
	var declared []string
	for _, file := range []string{"examples/python/task.yaml", u.home + "/template.pb"} {
		stdout, stderr, code := u.run("inject explain -o annotations --task "+file, "")
		require.Zero(t, code, stderr)
		declared = append(declared, stdout)
	}
	require.Contains(t, declared[0], "flyte.secrets/s0: ")
	require.Equal(t, declared[0], declared[1])
}

// The task for a cluster runs on a laptop, too. With a cluster's PodTemplate it is run in cmd/injectd.
func TestFlyteLocal(t *testing.T) {
	flyte := harness.SDK(t, "flyte")
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "flyte run --local")
	u := withSecret(t)
	stdout, stderr, code := u.run(commands(t, "flyte run --local")[0], "", "PYTHONDONTWRITEBYTECODE=1", "COLUMNS=200",
		"NO_COLOR=1", "FLYTE_DISABLE_SENTRY=true", "PATH="+bin+":"+filepath.Dir(flyte)+":"+os.Getenv("PATH"))
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "Carelessly: [REDACTED:MY_SECRET_KEY]\n")
	require.Contains(t, stdout, fmt.Sprintf("o0=%d", len([]rune(u.value))))
	require.False(t, u.holds(stdout+stderr))
}

func TestRawContainer(t *testing.T) {
	all := commands(t, "raw-container/task.sh")
	require.Len(t, all, 2)
	for i, want := range []struct {
		files  int
		shown  []string
		stderr string
	}{
		{
			2,
			[]string{
				"postgres://app:[REDACTED:MY_SECRET_KEY]@db/orders\n", `{"rows": 3, "authorization": "Basic `,
				`[REDACTED:MY_SECRET_KEY]"}` + "\n",
			},
			`outputs: "report": masked (MY_SECRET_KEY 1)`,
		},
		{
			1,
			[]string{"nobody may not log in with [REDACTED:MY_SECRET_KEY]\n"},
			`outputs: "_ERROR": masked (MY_SECRET_KEY 1)`,
		},
	} {
		u := withSecret(t)
		_, _, _ = u.run(all[i], "", "INJECT_ON_LEAK=warn")
		left, files := u.left(t)
		require.Equal(t, want.files, files)
		require.True(t, u.holds(left), "the search finds the value where nothing is masked")

		u = withSecret(t)
		stdout, stderr, _ := u.run(all[i], "")
		left, files = u.left(t)
		require.Equal(t, want.files, files)
		for _, part := range want.shown {
			require.Contains(t, left, part)
			require.Contains(t, stdout, part)
		}
		require.Contains(t, stderr, want.stderr)
		for _, text := range []string{stdout, stderr, left} {
			require.False(t, u.holds(text), text)
			require.True(t, u.holds(text+u.value))
		}
	}
}

// The annotations in the pod are those that the command beside them writes.
func TestPodAnnotations(t *testing.T) {
	pod, err := os.ReadFile("pod.yaml")
	require.NoError(t, err)
	command := regexp.MustCompile(`# (inject explain .*)`).FindSubmatch(pod)
	require.NotNil(t, command)
	stdout, stderr, code := newUser(t).run(string(command[1]), "")
	require.Zero(t, code, stderr)
	var want map[string]string
	require.NoError(t, yaml.Unmarshal([]byte(stdout), &want))
	var got struct {
		Metadata struct{ Annotations map[string]string }
	}
	require.NoError(t, yaml.Unmarshal(pod, &got))
	require.NotEmpty(t, want)
	require.Equal(t, want, got.Metadata.Annotations)
}
