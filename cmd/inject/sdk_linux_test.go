package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// readBack returns what the SDK reads from the outputs that actions of a task left.
func readBack(t *testing.T, task string, all ...left) []string {
	t.Helper()
	args := []string{"job.py", task}
	for i, one := range all {
		path := filepath.Join(t.TempDir(), strconv.Itoa(i))
		require.NoError(t, os.WriteFile(path, []byte(one.files["out/outputs.pb"]), 0o600))
		args = append(args, path)
	}
	cmd := inPod(exec.Command(harness.SDK(t, "python"), args...), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoErrorf(t, err, "%s", stderr.String())
	read := strings.SplitAfter(string(out), "\n--\n")
	require.Len(t, read, len(all)+1)
	return read[:len(all)]
}

// homeWith returns a home with a value as the secret V.
func homeWith(t *testing.T, value string) (home string) {
	t.Helper()
	home = t.TempDir()
	require.NoError(t, command(home, "create", "secret", "V", "--value", value).Run())
	return home
}

// What the SDK writes for every type that holds texts is masked: primitives and containers of them,
// dataclasses, models of pydantic's, dicts. The SDK reads it back into its type: it is what the task
// would have written had the mask been its secret.
func TestStructuredOutputs(t *testing.T) {
	t.Parallel()
	ranFlyte(t, "a0: primitives, containers, dataclass, pydantic model, dict in outputs.pb")
	value := "\"ä\\ \n" + rand.Text()
	home := homeWith(t, value)
	a := actionOf(t, "everything")
	masked := a.run(t, a.injected(home))
	requireCode(t, 0, masked)
	require.Contains(t, masked.stderr, `outputs.pb": masked`)
	masked.noLeak(t, value)

	a.clear(t)
	read := readBack(t, "everything", a.run(t, a.plain(t, mask)), masked)
	want, got := read[0], read[1]
	require.Contains(t, want, "Data(text='it is [REDACTED:V]'")
	at := 0 // only where they differ, because the whole of both would fill the log
	for at < min(len(want), len(got)) && want[at] == got[at] {
		at++
	}
	require.Equal(t, len(want), at, "differs behind %q", want[max(0, at-100):at])
	require.Len(t, got, len(want))
}

// A union has the JSON schema of what it holds, and that has the default of a field. It is masked.
func TestStructuredOutputsSchema(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three starts of Python")
	}
	value := "\"ä\\ \n" + rand.Text()
	a := actionOf(t, "default_in_schema")
	want := a.run(t, a.plain(t, mask))
	require.Contains(t, want.files["out/outputs.pb"], mask)
	a.clear(t)
	got := a.run(t, a.injected(homeWith(t, value)))
	requireCode(t, 0, got)
	got.noLeak(t, value)
	read := readBack(t, "default_in_schema", want, got)
	require.Contains(t, read[0], "Settings(text='nothing')")
	require.Equal(t, read[0], read[1])
}

// Outputs without a value are not touched, and keys that become equal are numbered.
func TestStructuredOutputsKeys(t *testing.T) {
	t.Parallel()
	value := rand.Text()
	home := homeWith(t, value)
	a := actionOf(t, "clean")
	clean := a.run(t, a.injected(home))
	requireCode(t, 0, clean)
	require.NotContains(t, clean.stderr, "outputs.pb")
	require.Contains(t, readBack(t, "clean", clean)[0], "Data(text='it is nothing'")

	a = actionOf(t, "equal_keys")
	equal := a.run(t, a.injected(home))
	requireCode(t, 0, equal)
	require.Contains(t, readBack(t, "equal_keys", equal)[0],
		"{'[REDACTED:V]': 1, '[REDACTED:V]-2': 2, 'x': {'y': 3}}\n")
}

// Bytes, numbers and pickles cannot be masked: the outputs are taken out, and the run fails. The SDK
// pickles what it has no form for.
func TestStructuredOutputsRefused(t *testing.T) {
	t.Parallel()
	n, err := rand.Int(rand.Reader, big.NewInt(9e15))
	require.NoError(t, err)
	digits := n.Add(n, big.NewInt(1e15)).String()
	home := homeWith(t, digits)
	const notText, number = "a value in it cannot be masked: it is not in a text", "a message with a value in a number"
	for i, c := range []struct{ task, file, why string }{
		{"bytes_in_dataclass", "outputs.pb", notText},
		{"number", "outputs.pb", number},
		{"pickled_set", "outputs.pb", notText},
		{"number_in_dataclass", "outputs.pb", number},
		{"pickled_any", "outputs.pb", notText},
		{"pickled_any_in_list", "outputs.pb", notText},
		{"pickled_class", "outputs.pb", notText},
		{"pickled_bytes", "outputs.pb", notText},
		{"pickled_error", "outputs.pb", notText},
		{"pickled_large", "", "binary data"},
	} {
		if testing.Short() && i > 1 {
			break // each starts Python
		}
		t.Run(c.task, func(t *testing.T) {
			a := actionOf(t, c.task)
			got := a.run(t, a.injected(home))
			requireCode(t, 125, got)
			require.Regexp(t, `"[^"]*`+c.file+`": moved to \S+: `+c.why, got.stderr)
			got.noLeak(t, digits)
			if c.file == "" { // a file in raw data is gone, to which outputs.pb points
				delete(got.files, "out/outputs.pb")
			}
			require.Empty(t, got.files)
		})
	}
}

// What a task writes to raw data is masked if it is text, and taken out if it is not. A file without
// a value is not touched.
func TestA0RawData(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("TestDataFrames has parquet, and texts are masked in all folders alike")
	}
	ranFlyte(t, "a0: File, Dir, DataFrame in raw data")
	value := "\"ä\\ " + rand.Text()
	home := homeWith(t, value)
	for _, c := range []struct{ task, refused string }{
		{"text_file", ""},
		{"folder", ""},
		{"clean_frame", ""},
		{"binary_file", "binary data"},
		{"frame", "a parquet file"},
		{"flyte_frame", "a parquet file"},
	} {
		t.Run(c.task, func(t *testing.T) {
			t.Parallel()
			a := newAction(t, "", "raw", c.task)
			got := a.run(t, a.injected(home))
			got.noLeak(t, value)
			if c.refused != "" {
				requireCode(t, 125, got)
				require.Regexp(t, `moved to \S+: `+c.refused+`, which cannot be masked \(V \d+\)`, got.stderr)
				require.Equal(t, []string{"out/outputs.pb"}, slices.Sorted(maps.Keys(got.files)))
				return
			}
			a.clear(t)
			want := a.run(t, a.plain(t, mask))
			requireCode(t, 0, want)
			requireCode(t, 0, got)
			raw := func(l left) []string { // the SDK calls the files by random names
				delete(l.files, "out/outputs.pb")
				return slices.Sorted(maps.Values(l.files))
			}
			require.NotEmpty(t, want.files)
			require.Equal(t, raw(want), raw(got))
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
