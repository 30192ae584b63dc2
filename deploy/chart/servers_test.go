package chart_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
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
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
	"inject/resolver/serve/policy"
)

// find returns the object of a kind and a name.
func find(t testing.TB, objects []object, kind, name string) object {
	t.Helper()
	i := slices.IndexFunc(objects, func(o object) bool {
		return text(o, "kind") == kind && text(o, "metadata", "name") == name
	})
	require.GreaterOrEqual(t, i, 0, "there is no %s %s", kind, name)
	return objects[i]
}

// The file of --policy is one that injectd reads, with the rules of people before those of tasks.
func TestPolicyFile(t *testing.T) {
	t.Parallel()
	const people = `policy.rules=[{"name": "people", "identity": {"token": "alice"},
"manage": [{"project": "*", "domain": "*"}], "list": [{"project": "a", "domain": "b", "org": "c"}],
"resolve": {"project": "a", "domain": "b", "keys": ["K"]}}]`
	const also = `policy.also=["WANDB_API_KEY"]`
	objects := render(t, "v1.37.2", "--set-json", people, "--set-json", also)
	file := text(find(t, objects, "ConfigMap", "inject-policy"), "data", "policy.yaml")
	_, err := policy.Parse([]byte(file), "flyte")
	require.NoError(t, err, file)
	var rules struct {
		Rules []struct {
			Name     string
			Identity map[string]string
			Resolve  map[string]any
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(file), &rules))
	require.Len(t, rules.Rules, 3)
	require.Equal(t, "people", rules.Rules[0].Name)
	for i, namespace := range []string{"flyte", "leaving"} {
		r := rules.Rules[i+1]
		require.Equal(t, "tasks in "+namespace, r.Name)
		require.Equal(t, map[string]string{
			"kubernetes.namespace": namespace, "kubernetes.project": "{project}", "kubernetes.domain": "{domain}",
		}, r.Identity)
		require.Equal(t, map[string]any{
			"project": "{project}", "domain": "{domain}", "declared": true, "also": []any{"WANDB_API_KEY"},
		}, r.Resolve)
	}
}

// A change of a file that the servers read makes new pods of them, and another change does not.
func TestChecksums(t *testing.T) {
	t.Parallel()
	pods := func(set string) any {
		return at(find(t, render(t, "v1.37.2", "--set", set), "Deployment", "injectd"), "spec", "template")
	}
	before := pods("policies.exec=true")
	require.Equal(t, before, pods("service.type=LoadBalancer"))
	for _, set := range []string{"policies.exec=false", "taskNamespaces={flyte}", "policy.also={K}"} {
		require.NotEqual(t, before, pods(set), set)
	}
}

// An installed is a release of the chart on an API server of its own, without nodes.
type installed struct {
	*harness.Kubernetes

	t         *testing.T
	bin       string // the folder of inject and injectd
	authority *harness.Authority
}

func install(t *testing.T) *installed {
	t.Helper()
	harness.Bin(t, "helm")
	harness.Bin(t, "kubectl")
	i := &installed{t: t, Kubernetes: harness.StartKubernetes(t, harness.KubernetesOptions{}), bin: t.TempDir()}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-o", i.bin, "./cmd/inject", "./cmd/injectd")
	build.Dir, build.Env = harness.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	i.authority = harness.NewAuthority(t, filepath.Join(t.TempDir(), "pki"))
	i.authority.Issue("tls", harness.Local)
	return i
}

// helm runs Helm as an administrator. It returns Helm's stderr.
func (i *installed) helm(values string, args ...string) (stderr string, err error) {
	i.t.Helper()
	args = append(args, "--kubeconfig", i.Kubeconfig())
	_, stderr, err = harness.Helm(i.t, harness.Bin(i.t, "helm"), values, args...)
	return stderr, err
}

// run runs a program of ours, and returns its stdout.
func (i *installed) run(stdin string, args ...string) string {
	i.t.Helper()
	cmd := exec.CommandContext(i.t.Context(), filepath.Join(i.bin, args[0]), args[1:]...)
	home := i.t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	cmd.Stdin = strings.NewReader(stdin)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(i.t, err, errs.String())
	return string(out)
}

// get returns an object of the release's namespace.
func (i *installed) get(kind, name string) (o object) {
	i.t.Helper()
	data := i.Kubectl(i.t, "", "-n", "inject-system", "get", kind, name, "-o", "json")
	require.NoError(i.t, json.Unmarshal([]byte(data), &o))
	return o
}

// files writes what a volume of the Deployment has into a folder, as kubelet does.
func (i *installed) files(volume object) (dir string) {
	i.t.Helper()
	dir = i.t.TempDir()
	sources := list(volume, "projected", "sources")
	if sources == nil {
		sources = []object{volume}
	}
	for _, s := range sources {
		kind, name := "configmap", text(s, "configMap", "name")
		if name == "" {
			kind, name = "secret", text(s, "secret", "secretName")
		}
		data, _ := i.get(kind, name)["data"].(object)
		require.NotEmpty(i.t, data, name)
		for file, content := range data {
			content := fmt.Append(nil, content)
			if kind == "secret" {
				var err error
				content, err = base64.StdEncoding.DecodeString(string(content))
				require.NoError(i.t, err)
			}
			require.NoError(i.t, os.WriteFile(filepath.Join(dir, file), content, 0o600))
		}
	}
	return dir
}

// serve runs injectd as the Deployment has it, as the chart's account, until the function that it returns is
// called. It returns the address, too. Only ports, folders and the kubeconfig are others.
func (i *installed) serve() (address string, stop func()) {
	i.t.Helper()
	spec, _ := at(i.get("deployment", "injectd"), "spec", "template", "spec").(object)
	container := list(spec, "containers")[0]
	args := append(words(container, "command")[1:], words(container, "args")...)
	for _, mount := range list(container, "volumeMounts") {
		volumes := list(spec, "volumes")
		dir := i.files(volumes[slices.IndexFunc(volumes, func(v object) bool { return v["name"] == mount["name"] })])
		for n := range args {
			args[n] = strings.Replace(args[n], "="+text(mount, "mountPath")+"/", "="+dir+"/", 1)
		}
	}
	token := i.Kubectl(i.t, "", "-n", "inject-system", "create", "token", text(spec, "serviceAccountName"))
	kubeconfig := kubeconfig(i.t, i.Kubernetes, strings.TrimSpace(token))
	for n, arg := range args {
		switch arg {
		case "--store=kube://inject-secrets":
			args[n] += "?kubeconfig=" + kubeconfig
		case "--listen=:8093":
			args[n] = "--listen=127.0.0.1:0"
		case "--ops-listen=:8094":
			args[n] = "--ops-listen="
		case "--drain-delay=5s":
			args[n] = "--drain-delay=0s"
		}
	}
	server := exec.CommandContext(i.t.Context(), filepath.Join(i.bin, "injectd"),
		append(args, "--kube-identity-kubeconfig="+kubeconfig, "--kube-certificates-kubeconfig="+kubeconfig)...)
	var log harness.Buffer
	server.Stderr = &log
	require.NoError(i.t, server.Start())
	serving := regexp.MustCompile(`"@message":"serving".*"listen":"([^"]+)"`)
	for end := time.Now().Add(30 * time.Second); !serving.MatchString(log.String()); time.Sleep(50 * time.Millisecond) {
		require.True(i.t, time.Now().Before(end), log.String())
	}
	return serving.FindStringSubmatch(log.String())[1], func() {
		require.NoError(i.t, server.Process.Signal(syscall.SIGTERM))
		require.NoError(i.t, server.Wait(), log.String())
	}
}

// TestUninstall installs all objects of the chart, which the API server checks strictly. A secret that the
// servers of a release have stored stays when the release is uninstalled, and the servers of the next one
// serve it.
func TestUninstall(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.Kubectl(t, "", append([]string{"create", "-f"}, strings.Join([]string{
		harness.Bin(t, "definitions/gateway-api/config/crd/standard"),
		harness.Bin(t, "definitions/prometheus-operator/example/prometheus-operator-crd"),
	}, ","))...)
	i.Kubectl(t, "", "create", "namespace", "flyte")
	i.Kubectl(t, "", "create", "namespace", "inject-system")
	i.Kubectl(t, "", "-n", "inject-system", "create", "secret", "generic", "injectd-tls",
		"--from-file=tls.crt="+i.authority.Path("tls.pem"), "--from-file=tls.key="+i.authority.Path("tls.key"),
		"--from-file=ca.crt="+i.authority.CA())
	tokens := t.TempDir()
	hashes := filepath.Join(tokens, "tokens")
	i.run("", "injectd", "token", "alice", "--tokens-file", hashes, "--out", filepath.Join(tokens, "alice"))
	i.Kubectl(t, "", "-n", "inject-system", "create", "secret", "generic", "tokens", "--from-file", hashes)
	values := overlaid(t, switches+`
taskNamespaces: [flyte]
images: {registry: inject.test}
certificates: {source: secret}
policy:
  rules:
  - name: alice
    identity: {token: alice}
    manage: [{project: "*", domain: "*"}]
    list: [{project: "*", domain: "*"}]
    resolve: {project: fraud, domain: development}
injectd:
  extraArgs: [--tokens-file=/etc/tokens/tokens]
  files: [{mountPath: /etc/tokens, secret: tokens}]
`)
	helm := func(verb string, args ...string) {
		stderr, err := i.helm(values, append([]string{verb, "-n", "inject-system"}, args...)...)
		require.NoError(t, err, stderr)
	}
	chart := filepath.Join(harness.Root(t), "deploy", "chart")
	// inject runs inject as alice.
	inject := func(address, stdin string, verb []string, args ...string) string {
		flags := []string{
			"--store", "grpcs://" + address, "--ca-file", i.authority.CA(),
			"--token-file", filepath.Join(tokens, "alice"),
		}
		return i.run(stdin, slices.Concat([]string{"inject"}, verb, flags, args)...)
	}
	value := rand.Text()
	sum := sha256.Sum256([]byte(value))
	served := func(address string) {
		out := inject(address, "", []string{"run"}, "--secret", "MY_SECRET_KEY", "--",
			"sh", "-c", `printf %s "$MY_SECRET_KEY" | sha256sum`)
		require.Contains(t, out, hex.EncodeToString(sum[:]))
	}

	helm("install", "inject", chart, "-f", "-")
	address, stop := i.serve()
	inject(address, value, []string{"create", "secret"},
		"MY_SECRET_KEY", "--from-file", "-", "-p", "fraud", "-d", "development")
	secrets := func() string { return i.Kubectl(t, "", "-n", "inject-secrets", "get", "secrets", "-o", "name") }
	stored := secrets()
	require.Equal(t, 1, strings.Count(stored, "secret/"), stored)
	served(address)
	stop()

	objects := harness.ChartObjects(t, fmt.Sprintf("v1.%d.0", i.Minor(t)), values)
	helm("uninstall", "inject")
	for _, o := range objects {
		code, _, err := i.Try(t.Context(), http.MethodGet, home(o)+"/"+text(o, "metadata", "name"), nil)
		require.NoError(t, err)
		want := http.StatusNotFound
		if text(o, "kind") == "Namespace" {
			want = http.StatusOK
			options := text(o, "metadata", "annotations", "argocd.argoproj.io/sync-options")
			require.Equal(t, "Prune=false,Delete=false", options)
		}
		require.Equal(t, want, code, "%s %s", text(o, "kind"), text(o, "metadata", "name"))
	}
	require.Equal(t, stored, secrets())

	stderr, err := i.helm(values, "install", "other", chart, "-n", "inject-system", "-f", "-")
	require.Error(t, err, "the namespace is that of another release")
	require.Contains(t, stderr, `Namespace "inject-secrets" in namespace "" exists and cannot be imported`)
	helm("install", "inject", chart, "-f", "-")
	address, stop = i.serve()
	served(address)
	stop()
}

// TestPlatforms renders the chart with the values of each platform that has a page.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("platforms/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, 3)
	for _, file := range files {
		own := read(t, file)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, version := range []string{"v1.33.0", "v1.37.2"} {
			pod := find(t, harness.ChartObjects(t, version, string(data)), "Deployment", "injectd")
			spec, _ := at(pod, "spec", "template", "spec").(object)
			require.Equal(t, at(own, "injectd", "nodeSelector"), spec["nodeSelector"])
			require.Equal(t, text(own, "images", "registry")+"/injectd:0.1.0", list(spec, "containers")[0]["image"])
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		page, err := os.ReadFile("../../docs/how-to/" + name + ".md")
		require.NoError(t, err)
		require.Contains(t, string(page), "deploy/chart/"+file)
	}
}
