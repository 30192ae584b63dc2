package main_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
)

// A flytePod is a file of testdata/pods: a pod as Flyte made it, and its TaskAction, if the file has
// that, too.
type flytePod struct {
	Metadata struct {
		Name                string
		Labels, Annotations map[string]string
	}
	Spec struct {
		Containers []struct {
			Command, Args []string
			Env           []struct {
				Name, Value string
				ValueFrom   struct {
					FieldRef struct {
						FieldPath string `yaml:"fieldPath"`
					} `yaml:"fieldRef"`
				} `yaml:"valueFrom"`
			}
		}
	}
}

// readPod returns the pod in a file of testdata/pods, and its TaskTemplate, nil if the file has none.
func readPod(t *testing.T, name string) (pod flytePod, template []byte) {
	t.Helper()
	f, err := os.Open("testdata/pods/" + name + ".yaml")
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read
	d := yaml.NewDecoder(f)
	require.NoError(t, d.Decode(&pod))
	require.Len(t, pod.Spec.Containers, 1)
	require.Empty(t, pod.Spec.Containers[0].Command, "an image's entrypoint stays in front of the arguments")
	var action struct {
		Spec struct {
			TaskTemplate string `yaml:"taskTemplate"`
		}
	}
	if err := d.Decode(&action); !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	template, err = base64.StdEncoding.DecodeString(action.Spec.TaskTemplate)
	require.NoError(t, err)
	return pod, template
}

// podInfo returns a folder with what kubelet writes for a downward-API volume with the labels and
// the annotations of the pod: lines as of FormatMap (k8s.io/kubernetes pkg/fieldpath), in a folder of
// their own that is reached by links (pkg/volume/util AtomicWriter). Kubelet adds two annotations to
// those that the pod has in the API.
func (p *flytePod) podInfo(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const version = "..2026_11_28_18_52_12.0000000001"
	require.NoError(t, os.Mkdir(filepath.Join(dir, version), 0o755))
	require.NoError(t, os.Symlink(version, filepath.Join(dir, "..data")))
	annotations := maps.Clone(p.Metadata.Annotations)
	annotations["kubernetes.io/config.seen"] = "2026-11-28T18:52:12.345678901Z"
	annotations["kubernetes.io/config.source"] = "api"
	for name, all := range map[string]map[string]string{"labels": p.Metadata.Labels, "annotations": annotations} {
		var lines []string
		for _, key := range slices.Sorted(maps.Keys(all)) {
			lines = append(lines, fmt.Sprintf("%v=%q", key, all[key]))
		}
		path := filepath.Join(dir, version, name)
		require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644))
		require.NoError(t, os.Symlink("..data/"+name, filepath.Join(dir, name)))
	}
	return dir
}

// environ returns the environment of the pod's container, as kubelet sets it.
func (p *flytePod) environ(t *testing.T) (env []string) {
	t.Helper()
	for _, v := range p.Spec.Containers[0].Env {
		if path := v.ValueFrom.FieldRef.FieldPath; path != "" {
			require.Equal(t, "metadata.name", path)
			v.Value = p.Metadata.Name
		}
		env = append(env, v.Name+"="+v.Value)
	}
	return env
}

// A placed is what inject explain says of one secret.
type placed struct {
	Key, Mount string
	Variables  []string
	Files      []string
	Winner     struct{ Organization, Project, Domain string }
}

// The pods that Flyte makes for a Python task and for a raw container give the declared list, and
// their labels the scope; so do their TaskTemplates. From either, explain writes Flyte's annotations
// again.
func TestFlytePods(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]placed{
		"python":      {{Key: "MY_SECRET", Mount: "ENV_VAR", Variables: []string{"MY_SECRET"}}},
		"raw":         {{Key: "MY_SECRET", Mount: "ENV_VAR", Variables: []string{"MY_SECRET"}}},
		"raw-copilot": {{Key: "MY_SECRET", Mount: "ENV_VAR", Variables: []string{"MY_SECRET"}}},
		"python-mount": {
			{Key: "MY_SECRET", Mount: "FILE", Files: []string{"/f/MY_SECRET"}},
			{Key: "my-key", Mount: "ENV_VAR", Variables: []string{"MY_KEY"}},
			{Key: "PD_KEY", Mount: "ENV_VAR", Variables: []string{"PD_KEY"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, template := readPod(t, name)
			home, _ := podHome(t)
			info, file := pod.podInfo(t), filepath.Join(t.TempDir(), "template")
			require.NoError(t, os.WriteFile(file, template, 0o600))
			for i := range want {
				want[i].Winner.Organization = "flyte" // not local, as _U_ORG_NAME in the pod says
				want[i].Winner.Project, want[i].Winner.Domain = "flytesnacks", "development"
			}
			for _, source := range [][]string{{"--pod-info", info}, {"--task", file}} {
				explain := func(format string) []byte {
					cmd := command(home, append(source, "-o", format, "--files-dir", "/f")...)
					cmd.Args = slices.Insert(cmd.Args, 1, "explain")
					cmd.Env = append(cmd.Env, pod.environ(t)...)
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					out, err := cmd.Output()
					require.NoErrorf(t, err, "%s", stderr.String())
					require.Empty(t, stderr.String())
					return out
				}
				var got []placed
				require.NoError(t, json.Unmarshal(explain("json"), &got))
				require.Equal(t, want, got)
				declared := map[string]string{}
				require.NoError(t, yaml.Unmarshal(explain("annotations"), &declared))
				require.Len(t, declared, len(want))
				for annotation, text := range declared {
					require.Equal(t, pod.Metadata.Annotations[annotation], text)
				}
			}
		})
	}
}

// podHome returns a home whose store has the secrets of the pods at their project and domain.
func podHome(t *testing.T) (home string, values map[string]string) {
	t.Helper()
	home, values = t.TempDir(), map[string]string{}
	for _, key := range []string{"MY_SECRET", "my-key", "PD_KEY"} {
		values[key] = "'\"$HOME`\\ $$ $(X) é" + rand.Text()
		out, err := command(home, "create", "secret", key, "-p", "flytesnacks", "-d", "development", "--value",
			values[key]).CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
	}
	return home, values
}

// A raw container's command is started as it is in the pod.
func TestFlyteRawPods(t *testing.T) {
	t.Parallel()
	harness.NeedRoot(t) // the task writes to /var/outputs, which is a folder of the test's here
	for name, want := range map[string]struct{ stdout, output string }{
		"raw":         {"hello [REDACTED:MY_SECRET]\n", ""},
		"raw-copilot": {"", "hello [REDACTED:MY_SECRET]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, _ := readPod(t, name)
			home, values := podHome(t)
			run := func(env ...string) (stdout, stderr, output string) {
				outputs := t.TempDir()
				cmd := exec.Command("unshare", slices.Concat([]string{
					"-m", "sh", "-c",
					`cd "$0" && mount -t tmpfs none /var && mkdir /var/outputs && mount --bind . /var/outputs && exec "$@"`,
					outputs, binary, "run", "--",
				}, pod.Spec.Containers[0].Args)...)
				cmd.Env = slices.Concat(command(home).Env, pod.environ(t),
					[]string{"INJECT_POD_INFO=" + pod.podInfo(t), "INJECT_OUTPUTS=/var/outputs"}, env)
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				require.NoErrorf(t, cmd.Run(), "%s", errs.String())
				b, err := os.ReadFile(outputs + "/greeting")
				require.Equal(t, want.output == "", err != nil)
				return out.String(), errs.String(), string(b)
			}
			stdout, _, output := run("INJECT_NO_REDACT=1", "INJECT_OUTPUTS=")
			require.Contains(t, stdout+output, strings.Join(strings.Fields(values["MY_SECRET"]), " "))
			stdout, stderr, output := run()
			require.Equal(t, want.stdout, stdout)
			require.Equal(t, want.output, output)
			require.NoError(t, harness.FindLeak(map[string]string{"all": stdout + stderr + output}, values))
		})
	}
}

// The tasks that the pods of Python run: they were not kept with the pods. They tell by a digest that
// they have the real values, and leak them.
const podTasks = `
import hashlib, os
import flyte
env = flyte.TaskEnvironment("m", secrets=[
    flyte.Secret("MY_SECRET", mount="/etc/flyte/secrets", group="grp"), flyte.Secret("my-key", as_env_var="MY_KEY"),
    flyte.Secret("PD_KEY", as_env_var="PD_KEY")])
def show(name, value):
    print(name, hashlib.sha256(value).hexdigest(), value.decode())
    return value.decode()
@env.task
async def leak() -> str:
    return show("MY_SECRET", os.environb[b"MY_SECRET"])
@env.task
async def mounted() -> str:
    with open(os.environ["FLYTE_SECRETS_DEFAULT_DIR"] + "/grp/MY_SECRET", "rb") as f:
        value = show("MY_SECRET", f.read())
    return value + show("my-key", os.environb[b"MY_KEY"]) + show("PD_KEY", os.environb[b"PD_KEY"])
`

// bundle writes the code of a task as Flyte's SDK packs it for a pod.
func bundle(t *testing.T, path, module string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	w := tar.NewWriter(zipped)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: module + ".py", Mode: 0o644, Size: int64(len(podTasks))}))
	_, err := w.Write([]byte(podTasks))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, zipped.Close())
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
}

// The real a0 runs a pod's arguments below inject. Some have templates in them. Into some pods Flyte's
// own webhook has written values; those that inject places replace them.
//
// Only the bucket is another. What is at s3:// in the pod is in a folder here, because the
// bucket of the pod's backend is gone: the inputs and the code are read from there, and the outputs
// are written there.
func TestFlytePythonPods(t *testing.T) {
	t.Parallel()
	runtime := harness.SDK(t, "a0")
	ranFlyte(t, "a0 with the arguments of pods of Flyte v2.0.43")
	for name, keys := range map[string][]string{
		"python":               {"MY_SECRET"},
		"python-mount":         {"MY_SECRET", "my-key", "PD_KEY"},
		"python-webhook":       {"MY_SECRET"},
		"python-mount-webhook": {"MY_SECRET", "my-key", "PD_KEY"},
	} {
		if testing.Short() && name != "python-mount-webhook" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod, _ := readPod(t, name)
			home, values := podHome(t)
			bucket := t.TempDir() + "/"
			args := pod.Spec.Containers[0].Args
			after := func(flag string) string { return args[slices.Index(args, flag)+1] }
			local := func(text string) string { return strings.ReplaceAll(text, "s3://", bucket) }
			require.Contains(t, args, "{{.runName}}")
			require.Equal(t, "a0", args[0])
			outputs := local(after("--outputs-path"))
			require.NoError(t, os.MkdirAll(outputs, 0o755))
			require.NoError(t, os.MkdirAll(filepath.Dir(local(after("--inputs"))), 0o755))
			require.NoError(t, os.WriteFile(local(after("--inputs")), nil, 0o600))
			bundle(t, local(after("--tgz")), after("mod"))

			cmd := command(home, "run", "--")
			for _, arg := range args {
				cmd.Args = append(cmd.Args, local(arg))
			}
			for _, v := range pod.environ(t) {
				cmd.Env = append(cmd.Env, local(v))
			}
			cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(runtime)+":"+os.Getenv("PATH"),
				"INJECT_POD_INFO="+pod.podInfo(t), "INJECT_OUTPUTS="+outputs, "INJECT_FILES_DIR="+home+"/files",
				"PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1")
			cmd.Dir = t.TempDir() // into which a0 unpacks the code
			out, err := cmd.CombinedOutput()
			require.NoErrorf(t, err, "%s", out)
			for _, key := range keys {
				require.Contains(t, string(out),
					fmt.Sprintf("%s %x [REDACTED:%[1]s]\n", key, sha256.Sum256([]byte(values[key]))))
			}
			require.Contains(t, string(out), fmt.Sprintf(`outputs.pb": masked (%s 1`, keys[0]))
			saved, err := os.ReadFile(filepath.Join(outputs, "outputs.pb"))
			require.NoError(t, err)
			require.Contains(t, string(saved), "[REDACTED:"+keys[0]+"]")
			texts := map[string]string{"log": string(out), "outputs.pb": string(saved)}
			require.NoError(t, harness.FindLeak(texts, values))
		})
	}
}
