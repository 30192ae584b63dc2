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
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// A serialized is a task as Flyte's SDK would send it to the backend.
type serialized struct {
	template string   // the file with the TaskTemplate
	args     []string // of the container, with the backend's templates in them
	pods     string   // the name of the PodTemplate, "" for none
}

// serialize returns a task of a module in dir.
func serialize(t *testing.T, dir, module, task string) *serialized {
	t.Helper()
	python := harness.SDK(t, "python")
	script, err := filepath.Abs("../../deploy/sdk/serialize.py")
	require.NoError(t, err)
	folder := t.TempDir()
	cmd := exec.Command(python, script, module, task, folder)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+folder, "PYTHONDONTWRITEBYTECODE=1", "FLYTE_DISABLE_SENTRY=true")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoErrorf(t, err, "%s", stderr.String())
	var template struct {
		Container struct{ Args []string }
		Metadata  struct{ PodTemplateName string }
	}
	require.NoErrorf(t, json.Unmarshal(out, &template), "%s", out)
	return &serialized{
		template: filepath.Join(folder, "template.pb"), args: template.Container.Args,
		pods: template.Metadata.PodTemplateName,
	}
}

// run runs the task of a project and a domain as a pod of Flyte's does: the container's args behind
// inject, an image's entrypoint, with the variables that Flyte sets and those in env. It returns what
// was printed, the exit code, and the names of the files in the outputs' folder.
func (s *serialized) run(f *flyte, project, domain string, env ...string) (out string, code int, outputs []string) {
	f.t.Helper()
	dir := f.t.TempDir()
	prefix := filepath.Join(dir, "outputs")
	require.NoError(f.t, os.Mkdir(prefix, 0o755))
	require.NoError(f.t, os.WriteFile(filepath.Join(dir, "inputs.pb"), nil, 0o600))
	fill := strings.NewReplacer("{{.input}}", dir+"/inputs.pb", "{{.outputPrefix}}", prefix,
		"{{.rawOutputDataPrefix}}", dir+"/raw", "{{.checkpointOutputPrefix}}", dir+"/checkpoint",
		"{{.prevCheckpointPrefix}}", `""`, "{{.runStartTime}}", "2026-11-28T18:52:12Z")
	cmd := exec.Command(filepath.Join(binaries, "inject"), "run", "--")
	for _, arg := range s.args {
		cmd.Args = append(cmd.Args, fill.Replace(arg))
	}
	cmd.Dir = f.t.TempDir()
	cmd.Env = slices.Concat([]string{
		"HOME=" + f.home, "PATH=" + filepath.Dir(harness.SDK(f.t, "a0")) + ":" + os.Getenv("PATH"),
		"INJECT_STORE=" + f.store, "FLYTE_INTERNAL_EXECUTION_ID=r1", "FLYTE_INTERNAL_EXECUTION_PROJECT=" + project,
		"FLYTE_INTERNAL_EXECUTION_DOMAIN=" + domain, "_U_ORG_NAME=local", "RUN_NAME=r1", "ACTION_NAME=a0",
		"_U_RUN_BASE=" + dir, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1",
	}, env)
	b, err := cmd.CombinedOutput()
	require.True(f.t, err == nil || cmd.ProcessState != nil, err)
	files, err := os.ReadDir(prefix)
	require.NoError(f.t, err)
	for _, file := range files {
		outputs = append(outputs, file.Name())
	}
	return string(b), cmd.ProcessState.ExitCode(), outputs
}

// The example of Flyte's page on secrets (www.union.ai/docs/v2/flyte/user-guide/secrets) runs word for
// word, with Flyte's own command line, SDK and runtime: at each scope a task in scope gets the value,
// and one out of scope is not started.
//
// One word is Flyte's command line's and not the page's: the page has the value as an argument, which
// the command line ignores and asks for the value instead; it has --value. inject takes both.
func TestFlytePage(t *testing.T) {
	if testing.Short() {
		t.Skip("in the long tests: each command takes a second to start")
	}
	task := serialize(t, "testdata/page", "my_task", "t1")
	type place struct{ org, project, domain string }
	for name, c := range map[string]struct {
		flags   []string
		in, out place
	}{
		"org": {nil, place{"flyte", "other", "staging"}, place{"another", "my_project", "development"}},
		"domain": {
			[]string{"--domain", "development"},
			place{"flyte", "other", "development"},
			place{"flyte", "my_project", "production"},
		},
		"project": {
			[]string{"--project", "my_project"},
			place{"flyte", "my_project", "production"},
			place{"flyte", "other", "development"},
		},
		"project and domain": {
			[]string{"--project", "my_project", "--domain", "development"},
			place{"flyte", "my_project", "development"},
			place{"flyte", "my_project", "production"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFlyteWith(t, "", "--orgs", "requested")
			// Flyte's command line finds it in the working folder, so that it needs no flags.
			f.write("config.yaml", "admin:\n  endpoint: dns:///"+f.flags[1]+"\n  insecure: true\ntask:\n  org: flyte\n")
			f.flags = nil
			secret := func(verb string, words ...string) []string {
				return slices.Concat([]string{verb, "secret"}, c.flags, words)
			}
			// The declared list is in a file, or in what a pod's labels and annotations are.
			sources := []func(p place) []string{
				func(p place) []string { return []string{"INJECT_TASK=" + task.template, "INJECT_ORG=" + p.org} },
				func(p place) []string {
					return []string{"INJECT_POD_INFO=" + f.podInfo(task, p.org, p.project, p.domain)}
				},
			}
			gets := func(source []string, value string) {
				t.Helper()
				out, code, outputs := task.run(f, c.in.project, c.in.domain, source...)
				require.Zero(t, code, out)
				require.Contains(t, out, fmt.Sprintf("digest %x\ncarelessly [REDACTED:MY_SECRET_KEY]\n",
					sha256.Sum256([]byte(value))))
				require.NoError(t, harness.FindLeak(map[string]string{"log": out}, map[string]string{"value": value}))
				require.Equal(t, []string{"outputs.pb"}, outputs)
			}
			isRefused := func(p place) {
				t.Helper()
				for _, source := range sources {
					out, code, outputs := task.run(f, p.project, p.domain, source(p)...)
					require.Equal(t, 125, code, out)
					require.Contains(t, out, "inject: MY_SECRET_KEY: secret not found\n")
					require.NotContains(t, out, "digest")
					require.Empty(t, outputs, "the task was not started")
				}
			}

			random := "'\"$HOME`\\ é%s $$ $(X) " + rand.Text()
			for i, by := range []struct {
				run   func(words ...string) string
				words []string
				value string
			}{
				{f.ok, []string{"--value", random}, random},
				{func(words ...string) string {
					out, ok := f.inject(words...)
					require.True(t, ok, out)
					return out
				}, []string{"my_secret_value"}, "my_secret_value"},
			} {
				isRefused(c.in)
				by.run(secret("create", append([]string{"MY_SECRET_KEY"}, by.words...)...)...)
				require.Contains(t, by.run(secret("get")...), "MY_SECRET_KEY")
				gets(sources[i](c.in), by.value)
				isRefused(c.out)
				by.run(secret("delete", "MY_SECRET_KEY")...)
			}
			isRefused(c.in)
		})
	}
}

// podInfo returns a folder with the labels and annotations of a pod of the task.
func (f *flyte) podInfo(task *serialized, org, project, domain string) (dir string) {
	f.t.Helper()
	dir = f.t.TempDir()
	out, ok := f.inject("explain", "--task", task.template, "-o", "annotations")
	require.True(f.t, ok, out)
	name, text, _ := strings.Cut(strings.TrimSpace(out), ": ")
	for file, content := range map[string]string{
		"labels": fmt.Sprintf("domain=%q\ninject-flyte-secrets=\"true\"\norganization=%q\nproject=%q", domain, org,
			project),
		"annotations": fmt.Sprintf("%s=%q", name, text),
	} {
		require.NoError(f.t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
	}
	return dir
}
