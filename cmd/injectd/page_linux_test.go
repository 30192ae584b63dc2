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
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

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
		"FLYTE_INTERNAL_EXECUTION_ID=r1", "FLYTE_INTERNAL_EXECUTION_PROJECT=" + project,
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
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "Flyte's page on secrets: create, get, delete secret, a0")
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
				func(p place) []string {
					return []string{"INJECT_STORE=" + f.store, "INJECT_TASK=" + task.template, "INJECT_ORG=" + p.org}
				},
				func(p place) []string {
					info := f.podInfo(task, p.org, p.project, p.domain)
					return []string{"INJECT_STORE=" + f.store, "INJECT_POD_INFO=" + info}
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

// A podTemplate is a PodTemplate of Kubernetes with as much as the example's has.
type podTemplate struct {
	Metadata struct{ Name string }
	Template struct {
		Spec struct {
			Volumes []struct {
				Name        string
				DownwardAPI struct {
					Items []struct {
						Path     string
						FieldRef struct {
							FieldPath string `yaml:"fieldPath"`
						} `yaml:"fieldRef"`
					}
				} `yaml:"downwardAPI"`
				ConfigMap struct{ Name string } `yaml:"configMap"`
				Projected struct {
					Sources []struct {
						ServiceAccountToken struct{ Audience, Path string } `yaml:"serviceAccountToken"`
					}
				}
			}
			Containers []struct {
				Name         string
				Env          []struct{ Name, Value string }
				VolumeMounts []struct {
					Name      string
					MountPath string `yaml:"mountPath"`
					ReadOnly  bool   `yaml:"readOnly"`
				} `yaml:"volumeMounts"`
			}
		}
	}
}

// The example for a cluster runs: its task with the real a0, behind the entrypoint of its image, with
// the volumes and the variables of its PodTemplate, against a server with TLS and a token. Here the
// root of the paths in the PodTemplate is a folder, and the server has another address.
func TestFlyteExample(t *testing.T) {
	t.Parallel()
	harness.Ran(t, "flyte", harness.SDKVersion(t, "flyte"), "a0 with a TaskTemplate, a PodTemplate and an entrypoint")
	const dir = "../../examples/flyte"
	task := serialize(t, dir, "task", "t1")
	var pod podTemplate
	require.NoError(t, yaml.Unmarshal([]byte(read(t, dir+"/pod-template.yaml")), &pod))
	require.Equal(t, pod.Metadata.Name, task.pods)
	require.Len(t, pod.Template.Spec.Containers, 1)
	container := pod.Template.Spec.Containers[0]
	require.Equal(t, "default", container.Name, "Flyte merges a container of this name into the task's")
	dockerfile := read(t, dir+"/Dockerfile")
	require.Contains(t, dockerfile, "\nCOPY --from=inject /inject /inject\nENTRYPOINT [\"/inject\", \"run\", \"--\"]\n")
	pinned := regexp.MustCompile(`(?m)^flyte==(\S+)`).FindStringSubmatch(read(t, "../../deploy/sdk/requirements.in"))
	require.Contains(t, dockerfile, "-v"+pinned[1]+"\n", "the image's SDK is the one that is tested")

	f := startFlyte(t, oneIdentity)
	value := "'\"$HOME`\\ é%s $$ $(X) " + rand.Text()
	out, ok := f.inject("create", "secret", "MY_SECRET_KEY", "-p", "p", "-d", "development", "--value", value)
	require.True(t, ok, out)

	// What kubelet puts into the volumes.
	info := f.podInfo(task, "flyte", "p", "development")
	volumes := map[string]map[string]string{}
	for _, v := range pod.Template.Spec.Volumes {
		files := map[string]string{}
		for _, item := range v.DownwardAPI.Items {
			files[item.Path] = read(t, filepath.Join(info, strings.TrimPrefix(item.FieldRef.FieldPath, "metadata.")))
		}
		if v.ConfigMap.Name == "inject-ca" {
			files["ca.crt"] = read(t, f.home+"/pki/ca.pem")
		}
		for _, s := range v.Projected.Sources {
			require.Equal(t, "injectd", s.ServiceAccountToken.Audience)
			files[s.ServiceAccountToken.Path] = read(t, f.home+"/token")
		}
		volumes[v.Name] = files
	}
	root := t.TempDir()
	environ := func(without string) (env []string) {
		for _, v := range container.Env {
			if v.Name == "INJECT_STORE" {
				require.Equal(t, "grpcs://secrets.example.org:8093", v.Value)
				v.Value = f.store
			}
			for _, m := range container.VolumeMounts {
				if strings.HasPrefix(v.Value, m.MountPath+"/") {
					v.Value = root + v.Value
				}
			}
			if v.Name != without {
				env = append(env, v.Name+"="+v.Value)
			}
		}
		return env
	}
	for _, m := range container.VolumeMounts {
		require.NotEmpty(t, volumes[m.Name], m.Name)
		require.True(t, m.ReadOnly)
		require.NoError(t, os.MkdirAll(root+m.MountPath, 0o700))
		for name, content := range volumes[m.Name] {
			require.NoError(t, os.WriteFile(filepath.Join(root+m.MountPath, name), []byte(content), 0o600))
		}
	}
	defaultInfo := "INJECT_POD_INFO=" + root + "/etc/podinfo" // where inject looks without it, but for the root

	out, code, outputs := task.run(f, "p", "development", append(environ(""), defaultInfo)...)
	require.Zero(t, code, out)
	require.Contains(t, out, "Carelessly: [REDACTED:MY_SECRET_KEY]\n")
	require.Equal(t, []string{"outputs.pb"}, outputs)
	require.NoError(t, harness.FindLeak(map[string]string{"log": out}, map[string]string{"value": value}))
	require.Contains(t, f.audited(), `"MY_SECRET_KEY"`)
	for _, v := range container.Env { // each of them is needed
		out, code, outputs = task.run(f, "p", "development", append(environ(v.Name), defaultInfo)...)
		require.Equal(t, 125, code, out)
		require.Empty(t, outputs)
	}
}
