package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// job is the folder with the tasks and the reader of their outputs.
const job = "../../deploy/sdk"

// a0 returns the command line that runs a task of job.py as Flyte does, and the outputs' folder.
func a0(t *testing.T, task string) (argv []string, out string) {
	t.Helper()
	dir := t.TempDir()
	out = filepath.Join(dir, "out")
	require.NoError(t, os.Mkdir(out, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inputs.pb"), nil, 0o600))
	return []string{
		harness.SDK(t, "a0"), "--inputs", dir + "/inputs.pb", "--outputs-path", out, "--version", "v1",
		"--run-base-dir", out, "--raw-data-path", dir + "/raw", "--checkpoint-path", dir + "/checkpoint",
		"--prev-checkpoint", dir + "/previous", "--run-name", "r1", "--name", "a1",
		"--resolver", "flyte._internal.resolvers.default.DefaultTaskResolver", "mod", "job", "instance", task,
	}, out
}

// inJob makes cmd run where the SDK finds job.py, with what a pod of Flyte's says.
func inJob(cmd *exec.Cmd, env ...string) *exec.Cmd {
	cmd.Dir = job
	cmd.Env = append(append(cmd.Env, "PYTHONDONTWRITEBYTECODE=1", "FLYTE_DISABLE_SENTRY=true", "_U_ORG_NAME=local",
		"FLYTE_INTERNAL_EXECUTION_PROJECT=p", "FLYTE_INTERNAL_EXECUTION_DOMAIN=development"), env...)
	return cmd
}

// runTask runs a task below inject with V as a secret, and returns its outputs.pb and inject's exit
// code with what it wrote.
func runTask(t *testing.T, home, value, task string) (outputs []byte, code int, said string) {
	t.Helper()
	argv, out := a0(t, task)
	cmd := inJob(command(home, append([]string{"run", "--secret", "V", "--outputs", out, "--"}, argv...)...))
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	_ = cmd.Run() // the exit code is compared
	require.NotContains(t, b.String(), value)
	outputs, err := os.ReadFile(filepath.Join(out, "outputs.pb"))
	if err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	return outputs, cmd.ProcessState.ExitCode(), b.String()
}

// readBack returns what the SDK reads from outputs.
func readBack(t *testing.T, task string, outputs []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outputs.pb")
	require.NoError(t, os.WriteFile(path, outputs, 0o600))
	cmd := inJob(exec.Command(harness.SDK(t, "python"), "job.py", task, path), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoErrorf(t, err, "%s", stderr.String())
	return string(out)
}

// homeWith returns a home with a value as the secret V.
func homeWith(t *testing.T, value string) (home string) {
	t.Helper()
	home = t.TempDir()
	require.NoError(t, command(home, "create", "secret", "V", "--value", value).Run())
	return home
}

// What the SDK writes for a dataclass, a model of pydantic's or a dict is masked, and the SDK reads
// it back into its type: it is what the task would have written had the mask been its secret.
func TestStructuredOutputs(t *testing.T) {
	t.Parallel()
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "a0: dataclass, pydantic model, dict in outputs.pb")
	value := "\"ä\\ \n" + rand.Text()
	home := homeWith(t, value)
	masked, code, said := runTask(t, home, value, "everything")
	require.Zero(t, code, said)
	require.Contains(t, said, `outputs.pb": masked`)

	argv, out := a0(t, "everything")
	plain := func(v string) []byte {
		cmd := inJob(exec.Command(argv[0], argv[1:]...), "HOME="+t.TempDir(), "V="+v)
		b, err := cmd.CombinedOutput()
		require.NoErrorf(t, err, "%s", b)
		outputs, err := os.ReadFile(filepath.Join(out, "outputs.pb"))
		require.NoError(t, err)
		return outputs
	}
	require.Contains(t, string(plain(value)), value, "the value can be found")
	require.NotContains(t, string(masked), value)
	want := readBack(t, "everything", plain("[REDACTED:V]"))
	require.Contains(t, want, "Data(text='it is [REDACTED:V]'")
	got := readBack(t, "everything", masked)
	at := 0 // only where they differ, because the whole of both would fill the log
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	require.Equal(t, len(want), at, "differs behind %q", want[max(0, at-100):at])
	require.Len(t, got, len(want))
}

// Outputs without a value are not touched, and keys that become equal are numbered.
func TestStructuredOutputsKeys(t *testing.T) {
	t.Parallel()
	value := rand.Text()
	home := homeWith(t, value)
	outputs, code, said := runTask(t, home, value, "clean")
	require.Zero(t, code, said)
	require.NotContains(t, said, "outputs.pb")
	require.Contains(t, readBack(t, "clean", outputs), "Data(text='it is nothing'")

	outputs, code, said = runTask(t, home, value, "equal_keys")
	require.Zero(t, code, said)
	require.Contains(t, readBack(t, "equal_keys", outputs), "{'[REDACTED:V]': 1, '[REDACTED:V]-2': 2, 'x': {'y': 3}}\n")
}

// Bytes, numbers and pickles cannot be masked: the outputs are taken out, and the run fails.
func TestStructuredOutputsRefused(t *testing.T) {
	t.Parallel()
	n, err := rand.Int(rand.Reader, big.NewInt(9e15))
	require.NoError(t, err)
	digits := n.Add(n, big.NewInt(1e15)).String()
	home := homeWith(t, digits)
	for task, why := range map[string]string{
		"bytes_in_dataclass":  "a value in it cannot be masked: it is not in a text (V 1)",
		"number_in_dataclass": "a message with a value in a number, which cannot be masked (V 1)",
		"number":              "a message with a value in a number, which cannot be masked (V 1)",
		"pickled":             "a value in it cannot be masked: it is not in a text (V 1)",
	} {
		t.Run(task, func(t *testing.T) {
			outputs, code, said := runTask(t, home, digits, task)
			require.Equal(t, 125, code, said)
			require.Contains(t, said, `outputs.pb": moved to`)
			require.Contains(t, said, why)
			require.Empty(t, outputs)
		})
	}
}

// A data frame without a value is not touched, whichever of the usual codecs its pages are compressed
// by, and its twin with a value is taken out.
func TestDataFrames(t *testing.T) {
	t.Parallel()
	harness.Ran(t, "pyarrow", harness.SDKVersion(t, "pyarrow"), "parquet in --outputs, each codec")
	value := rand.Text()
	home := homeWith(t, value)
	out := filepath.Join(home, "out")
	require.NoError(t, os.Mkdir(out, 0o755))
	cmd := command(home, "run", "--secret", "V", "--outputs", out, "--", harness.SDK(t, "python"), "-c", `
import hashlib, os, pandas, sys
for codec in sys.argv[2:]:
    texts = [f"text {i % 97} of {i}" for i in range(20_000)]
    codec = None if codec == "none" else codec
    clean = f"{sys.argv[1]}/clean-{codec}.parquet"
    pandas.DataFrame({"text": texts, "n": range(len(texts))}).to_parquet(clean, compression=codec)
    print("written", os.path.basename(clean), hashlib.sha256(open(clean, "rb").read()).hexdigest())
    texts[5000] = "text 5 " + os.environ["V"]
    pandas.DataFrame({"text": texts}).to_parquet(f"{sys.argv[1]}/value-{codec}.parquet", compression=codec)
`, out, "none", "snappy", "gzip", "zstd", "brotli", "lz4")
	output, err := cmd.CombinedOutput()
	said := string(output)
	require.Error(t, err)
	require.Equalf(t, 125, cmd.ProcessState.ExitCode(), "%s", said)

	written := regexp.MustCompile(`written (\S+) (\S+)`).FindAllStringSubmatch(said, -1)
	require.Len(t, written, 6, said)
	for _, clean := range written {
		b, err := os.ReadFile(filepath.Join(out, clean[1]))
		require.NoError(t, err)
		require.Equal(t, clean[2], fmt.Sprintf("%x", sha256.Sum256(b)), clean[1])
		twin := strings.Replace(clean[1], "clean", "value", 1)
		require.NoFileExists(t, filepath.Join(out, twin))
		require.Regexp(t, `"`+twin+`": moved to .*: a parquet file, which cannot be masked \(V \d+\)`, said)
	}
	left, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, left, len(written))
}
