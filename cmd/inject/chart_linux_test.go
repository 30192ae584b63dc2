package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/injector/webhook"
	"inject/internal/harness"
)

// chartCommand returns the command that the chart gives the task of a pod in testdata/pods, up to the --.
func chartCommand(t *testing.T, pod string) (command []string) {
	t.Helper()
	var config *webhook.Config
	for _, o := range harness.ChartObjects(t, "v1.30.0", `
taskNamespaces: [flyte]
claimers: {accounts: [{namespace: flyte-system, name: flyte-binary}]}
`) {
		data, _ := o["data"].(map[string]any)
		if text, ok := data["mutation.yaml"].(string); ok {
			var err error
			config, err = webhook.Parse([]byte(text))
			require.NoError(t, err)
		}
	}
	require.NotNil(t, config)
	f, err := os.Open("testdata/pods/" + pod + ".yaml")
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read
	var of map[string]any
	require.NoError(t, yaml.NewDecoder(f).Decode(&of))
	text, err := json.Marshal(of)
	require.NoError(t, err)
	r := webhook.Mutate(config, text)
	require.Equal(t, webhook.Changed, r.Outcome, r.Reason)
	for _, o := range r.Operations {
		if strings.HasSuffix(o.Path, "/command") {
			require.NoError(t, json.Unmarshal(o.Value, &command))
		}
	}
	return command[:slices.Index(command, "--")+1]
}

// TestImageVariables has images with variables that would weaken what the chart promises. They change nothing
// in a pod that the chart has changed, and everything in a run by hand.
func TestImageVariables(t *testing.T) {
	t.Parallel()
	pod, _ := readPod(t, "raw")
	home, values := podHome(t)
	// As in the pod, but for the places that only a pod has.
	words := slices.Replace(chartCommand(t, "raw"), 0, 1, binary)
	message, outputs := filepath.Join(t.TempDir(), "message"), filepath.Join(t.TempDir(), "outputs")
	for flag, place := range map[string]string{
		"--store":           "file://" + home + "/.local/share/inject/secrets.db",
		"--pod-info":        pod.podInfo(t),
		"--termination-log": message,
	} {
		words[slices.Index(words, flag)+1] = place
	}
	for _, flag := range []string{"--token-file", "--ca-file"} { // of a server
		at := slices.Index(words, flag)
		words = slices.Delete(words, at, at+2)
	}
	end := len(words) - 1
	byChart := slices.Concat(words[:end], []string{"--outputs", outputs}, words[end:])
	// A run by hand has these variables before those of an image.
	byHand := []string{binary, "run", "--pod-info", pod.podInfo(t), "--"}
	usual := []string{"INJECT_OUTPUTS=" + outputs, "INJECT_TERMINATION_LOG=" + message}
	// run returns what is left by a task that writes its secret to its output, a folder and its message.
	run := func(before []string, env ...string) (left map[string]string, err error) {
		require.NoError(t, os.RemoveAll(outputs))
		require.NoError(t, os.Mkdir(outputs, 0o755))
		require.NoError(t, os.WriteFile(message, nil, 0o600))
		cmd := exec.Command(before[0], append(slices.Clone(before[1:]),
			"sh", "-c", `printf %s "$MY_SECRET" | tee "$0/file" "$1"`, outputs, message)...)
		cmd.Env = slices.Concat(command(home).Env, pod.environ(t), env)
		out, err := cmd.Output()
		left = map[string]string{"output": string(out)}
		for name, path := range map[string]string{"file": outputs + "/file", "message": message} {
			b, _ := os.ReadFile(path)
			left[name] = string(b)
		}
		return left, err
	}
	value := map[string]string{"MY_SECRET": values["MY_SECRET"]}
	masked := map[string]string{}
	all := []string{"output", "file", "message"}
	for _, at := range all {
		masked[at] = "[REDACTED:MY_SECRET]"
	}
	left, err := run(byHand, usual...)
	require.NoError(t, err)
	require.Equal(t, masked, left)
	for name, test := range map[string]struct {
		image []string
		// leaks are where the value is after a run by hand. Without them the task has another value, or none.
		leaks []string
	}{
		"no masking":             {[]string{"INJECT_NO_REDACT=1", "INJECT_OUTPUTS="}, all},
		"only long values":       {[]string{"INJECT_REDACT_MIN_LENGTH=1000"}, all},
		"only a warning":         {[]string{"INJECT_ON_LEAK=warn"}, []string{"file"}},
		"another message":        {[]string{"INJECT_TERMINATION_LOG=/nowhere"}, []string{"message"}},
		"a value of the image":   {[]string{"INJECT_ON_CONFLICT=keep", "MY_SECRET=of-the-image"}, nil},
		"a setting that is none": {[]string{"INJECT_STORAGE=canary"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			left, err := run(byHand, append(slices.Clone(usual), test.image...)...)
			for at, text := range left {
				leak := harness.FindLeak(map[string]string{at: text}, value)
				require.Equal(t, slices.Contains(test.leaks, at), leak != nil, "by hand: %s: %s", at, text)
			}
			require.True(t, err != nil || test.leaks != nil || left["output"] == "of-the-image", left)

			left, err = run(byChart, test.image...)
			require.NoError(t, err)
			require.Equal(t, masked, left)
		})
	}
}

// imagesChoice are the flags of a run that are not in the command of the chart, so that variables of an image
// count. Each says why that weakens nothing.
var imagesChoice = map[string]string{
	"secret":          "a pod is only given what its task declares",
	"secret-file":     "as for --secret",
	"also-secret":     "as for --secret",
	"task":            "as for --secret",
	"require-secrets": "it only refuses",
	"org":             "a pod is only given secrets of its own scope",
	"project":         "as for --org",
	"domain":          "as for --org",
	"profile":         "it is not read beside --store",
	"key-file":        "the store is no file",
	"lock-timeout":    "the store is no file",
	"cert-file":       "it is of the image, and may do with inject what it may do without",
	"cert-key-file":   "as for --cert-file",
	"log-level":       "no line of the log has a value",
	"resolve-timeout": "a task that is too late does not start",
	"files-dir":       "the bytes stay in memory wherever the links are",
	"mask":            "it masks more",
	"outputs":         "it checks more",
}

// TestFlagsOfTheChart has every flag of a run: a new one is in the command of the chart, or needs a reason.
func TestFlagsOfTheChart(t *testing.T) {
	t.Parallel()
	given := chartCommand(t, "raw")
	help, err := command(t.TempDir(), "run", "--help").Output()
	require.NoError(t, err)
	n := 0
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, |    )--([a-z-]+)`).FindAllStringSubmatch(string(help), -1) {
		name := m[1]
		said := slices.ContainsFunc(given, func(w string) bool {
			return w == "--"+name || strings.HasPrefix(w, "--"+name+"=")
		})
		n++
		if name != "help" {
			require.NotEqual(t, said, imagesChoice[name] != "", "--%s", name)
		}
	}
	require.Greater(t, n, 20)
}
