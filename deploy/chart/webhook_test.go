package chart_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"inject/injector/webhook"
	"inject/internal/harness"
)

// injectdDir is the folder of injectdProgram, "" if none was made. TestMain removes it.
var injectdDir string

// injectdProgram is the path of injectd, which is built once.
var injectdProgram = sync.OnceValues(func() (path string, err error) {
	if injectdDir, err = os.MkdirTemp("", "injectd"); err != nil {
		return "", err
	}
	path = filepath.Join(injectdDir, "injectd")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace", "-o", path,
		"inject/cmd/injectd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// A webhookServer is injectd webhook with the files that the chart gives it.
type webhookServer struct {
	address   string
	authority *harness.Authority
	cmd       *exec.Cmd
	log       *harness.Buffer
}

// webhookMode starts a server of the chart's objects, and registers it with the API server, which calls it by its
// address in place of its Service: the tests have no network of pods.
func webhookMode(t testing.TB, c *cluster, objects []object) *webhookServer {
	s := startWebhook(t, objects)
	o := find(t, objects, "MutatingWebhookConfiguration", "inject-webhook")
	// As other tests have a server of their own at the same time.
	in(o, "metadata")["name"] = "inject-webhook-" + strings.ReplaceAll(s.address, ":", "-")
	for _, hook := range list(o, "webhooks") {
		to := in(hook, "clientConfig")
		require.Equal(t, "inject-webhook", text(to, "service", "name"))
		to["url"] = "https://" + s.address + text(to, "service", "path")
		to["caBundle"] = base64.StdEncoding.EncodeToString(s.ca(t))
		delete(to, "service")
	}
	at := collection("admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations", "")
	c.do(t, admin, post(at, o))
	t.Cleanup(func() {
		_, _, _ = c.Try(context.Background(), http.MethodDelete, at+"/"+text(o, "metadata", "name"), nil)
	})
	return s
}

func (s *webhookServer) ca(t testing.TB) []byte {
	ca, err := os.ReadFile(s.authority.CA())
	require.NoError(t, err)
	return ca
}

func startWebhook(t testing.TB, objects []object) *webhookServer {
	t.Helper()
	path, err := injectdProgram()
	require.NoError(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "mutation.yaml")
	file := text(find(t, objects, "ConfigMap", "inject-mutation"), "data", "mutation.yaml")
	require.NoError(t, os.WriteFile(config, []byte(file), 0o600))
	s := &webhookServer{authority: harness.NewAuthority(t, filepath.Join(dir, "pki")), log: &harness.Buffer{}}
	s.authority.Issue("tls", harness.Local)

	// The flags of the Deployment, with paths and ports of this machine.
	one := list(find(t, objects, "Deployment", "inject-webhook"), "spec", "template", "spec", "containers")[0]
	var args []string
	for _, arg := range items(one, "args") {
		arg, _ := arg.(string)
		for from, to := range map[string]string{
			"--config=": config, "--cert-file=": s.authority.Path("tls.pem"),
			"--cert-key-file=": s.authority.Path("tls.key"), "--listen=": "127.0.0.1:0", "--ops-listen=": "127.0.0.1:0",
			"--drain-delay=": "0s",
		} {
			if strings.HasPrefix(arg, from) {
				arg = from + to
			}
		}
		args = append(args, arg)
	}
	require.Equal(t, []any{"/injectd", "webhook"}, items(one, "command"))
	s.cmd = exec.Command(path, append([]string{"webhook"}, args...)...)
	s.cmd.Env = []string{"HOME=" + dir}
	said, err := s.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	serving, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewReader(said); ; {
			line, err := lines.ReadString('\n')
			_, _ = io.WriteString(s.log, line)
			var l struct {
				Message string `json:"@message"`
				Address string `json:"address"`
			}
			if json.Unmarshal([]byte(line), &l) == nil && l.Message == "serving" {
				serving <- l.Address
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-ended
		_ = s.cmd.Wait()
	})
	select {
	case s.address = <-serving:
	case <-ended:
		t.Fatal(s.log)
	case <-time.After(time.Minute):
		t.Fatal("injectd webhook does not begin to serve")
	}
	return s
}

// The account of the webhook has no right, its pods have no token, and nothing else of the chart names it.
func TestWebhookHasNoRight(t *testing.T) {
	t.Parallel()
	objects := render(t, "v1.30.0")
	for _, o := range objects {
		for _, subject := range list(o, "subjects") {
			require.NotEqual(t, "inject-webhook", text(subject, "name"), text(o, "metadata", "name"))
		}
	}
	require.Equal(t, false, find(t, objects, "ServiceAccount", "inject-webhook")["automountServiceAccountToken"])
	spec := in(find(t, objects, "Deployment", "inject-webhook"), "spec", "template", "spec")
	require.Equal(t, false, spec["automountServiceAccountToken"])
	require.Equal(t, "inject-webhook", spec["serviceAccountName"])
	hook := find(t, objects, "MutatingWebhookConfiguration", "inject-webhook")
	require.Greater(t, text(hook, "metadata", "name"), "flyte-binary-webhook", "they are called by name")
}

// A file of the chart that the server reads makes new pods of it when it changes, and the server reads each file
// that the values of the tests make.
func TestWebhookFile(t *testing.T) {
	t.Parallel()
	file := func(set string) (data string, template any) {
		objects := render(t, "v1.30.0", "--set", set)
		return text(find(t, objects, "ConfigMap", "inject-mutation"), "data", "mutation.yaml"),
			at(find(t, objects, "Deployment", "inject-webhook"), "spec", "template")
	}
	_, before := file("policies.exec=true")
	_, same := file("service.type=LoadBalancer")
	require.Equal(t, before, same)
	for _, set := range goldens {
		if set == "" {
			continue
		}
		text, after := file(set)
		require.NotEqual(t, before, after, set)
		_, err := webhook.Parse([]byte(text))
		require.NoError(t, err, text)
	}
}

// The golden pods, without a server: what the operations make of a pod is its want, byte by byte if both are encoded
// alike, and a pod that is refused has none.
func TestMutateGoldens(t *testing.T) {
	t.Parallel()
	for folder, set := range goldens {
		values := "mutation.mode=webhook,images.tag=1.2.3"
		if set != "" {
			values += "," + set
		}
		objects := render(t, "v1.37.2", "--set", values)
		c, err := webhook.Parse([]byte(text(find(t, objects, "ConfigMap", "inject-mutation"), "data", "mutation.yaml")))
		require.NoError(t, err)
		for _, g := range golds(t, folder) {
			pod, err := json.Marshal(g.pod)
			require.NoError(t, err)
			result := webhook.Mutate(c, pod)
			if g.want == nil {
				require.Equal(t, webhook.Left, result.Outcome, g.name)
				require.Empty(t, result.Operations, g.name)
				continue
			}
			operations, err := json.Marshal(result.Operations)
			require.NoError(t, err)
			patch, err := jsonpatch.DecodePatch(operations)
			require.NoError(t, err)
			after := pod
			if len(patch) > 0 {
				after, err = patch.Apply(pod)
				require.NoError(t, err, g.name)
			}
			want, err := json.Marshal(g.want)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(after), g.name)
			require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(c, want), g.name)
		}
	}
}

// The policies and the webhook find an entrypoint in an annotation by one pattern.
func TestEntrypointPattern(t *testing.T) {
	t.Parallel()
	policies, err := os.ReadFile("templates/mutation/_pod.tpl")
	require.NoError(t, err)
	server, err := os.ReadFile("../../injector/webhook/entrypoint.go")
	require.NoError(t, err)
	pattern := regexp.MustCompile(`matches\(\n\s*r'(\^\[ [^']*)'\)`).FindSubmatch(policies)
	require.NotNil(t, pattern)
	whole := strings.ReplaceAll(string(server), "` +\n\t`", "")
	require.Contains(t, whole, "`"+string(pattern[1])+"`")
}

// inheriting brings the webhooks of a Kubernetes without MutatingAdmissionPolicies into force in a namespace, in which
// an account of tasks may make pods, and returns that account.
func inheriting(t *testing.T, c *cluster, namespace string) user {
	t.Helper()
	c.tasks(t, namespace, nil)
	values := "taskNamespaces={" + namespace + "},policies.hosts=false,mutation.mode=webhook"
	objects := render(t, "v1.35.0", "--set", values)
	for _, o := range objects {
		if isPolicy(o) {
			c.ensure(t, o)
		}
	}
	webhookMode(t, c, objects)
	heir := account(namespace, "spark")
	c.grant(t, namespace, "all-but-claim", nil, heir, member, flyte)
	c.grant(t, namespace, "inject-claimer", nil, flyte)
	return heir
}

// TestWebhookInherits makes pods with the token of a pod: the API server asks the webhook to stamp those of users who
// may not claim, by the conditions of the policy, and no others.
func TestWebhookInherits(t *testing.T) {
	c := get(t)
	const namespace = "inherit-webhook"
	heir := inheriting(t, c, namespace)
	task := func(name string) request {
		return created(namespace, edited(read(t, "testdata/pods/command.yaml"), set(name, "metadata", "name")))
	}
	parent := c.do(t, admin, task("parent"))
	maker := "parent/" + text(parent, "metadata", "uid")
	inherits := []string{"metadata", "annotations", "inject.flyte.org/inherits"}
	child := heir.of(parent)
	plain := func(edits ...edit) request {
		o := object{
			"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "child"},
			"spec": object{"containers": []object{{"name": "main", "image": "x:1"}}},
		}
		return created(namespace, edited(o, edits...))
	}
	scope := func(o object) { label("project", "fraud")(o); label("domain", "development")(o) }
	c.until(t, "a stamp", func() string {
		return text(c.try(t, child, plain(scope)).object, inherits...)
	}, maker)
	for name, edits := range map[string][]edit{
		"with a false one": {scope, stamp("a/1")}, "a declaration": {annotate("flyte.secrets/s0", "x")},
		"an organization": {label("organization", "flyte")},
	} {
		a := c.try(t, child, plain(edits...))
		require.True(t, a.ok(), "%s: %s", name, a)
		require.Equal(t, maker, text(a.object, inherits...), name)
	}
	// With the label both webhooks are asked.
	a := c.try(t, child, task("other"))
	require.True(t, a.ok(), a)
	require.Equal(t, maker, text(a.object, inherits...))
	require.Contains(t, fmt.Sprint(a.object), "/inject/inject")

	a = c.try(t, child, plain())
	require.True(t, a.ok(), a)
	require.Empty(t, text(a.object, inherits...), "without a scope")
	a = c.try(t, flyte.of(parent), plain(scope))
	require.True(t, a.ok(), a)
	require.Empty(t, text(a.object, inherits...), "one that may claim")
	// Without a pod's token it is no heir, and may not claim.
	c.until(t, "a refusal", func() string { return c.try(t, heir, plain(scope)).String() }, "may not claim")
}

// While the webhook is down no pod that wants secrets is created, with an answer after which Flyte tries again, and all
// other pods are.
func TestWebhookDown(t *testing.T) {
	c := get(t)
	const namespace = "down-webhook"
	m := modes[slices.IndexFunc(modes, func(m mode) bool { return m.name == "webhook" })]
	var server *webhookServer
	m.begin = func(t testing.TB, c *cluster, objects []object) { server = webhookMode(t, c, objects) }
	c.mutated(t, m, namespace, nil, "")
	wants := created(namespace, read(t, "testdata/pods/python.yaml"))
	require.True(t, c.try(t, admin, wants).ok())
	// Also a pod as large as the API server takes.
	large := edited(read(t, "testdata/pods/python.yaml"), func(o object) {
		one := list(o, "spec", "containers")[0]
		one["args"] = append(items(one, "args"), strings.Repeat("x", 2900<<10))
	})
	answer := c.try(t, admin, created(namespace, large))
	require.True(t, answer.ok(), answer)
	require.Equal(t, "/inject/inject", items(list(answer.object, "spec", "containers")[0], "command")[0])

	require.NoError(t, server.cmd.Process.Kill())
	c.until(t, "a failure", func() string { return c.try(t, admin, wants).String() }, "500 ")
	a := c.try(t, admin, wants)
	require.Equal(t, http.StatusInternalServerError, a.code, a)
	require.Contains(t, a.message, "mutate.inject.flyte.org")
	plain := edited(read(t, "testdata/pods/python.yaml"), label("inject-flyte-secrets", "false"))
	require.True(t, c.try(t, admin, created(namespace, plain)).ok())
	require.True(t, c.try(t, admin, created("elsewhere", read(t, "testdata/pods/python.yaml"))).ok())
}

// TestWebhookUpgrade upgrades the chart beside a caBundle that injectd wrote: Helm keeps it, or no pod of a task could
// be created until injectd writes it again.
func TestWebhookUpgrade(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{})
	for _, namespace := range []string{"flyte", "leaving", "inject-system"} {
		k.Kubectl(t, "", "create", "namespace", namespace)
	}
	chart := filepath.Join(harness.Root(t), "deploy", "chart")
	ca, err := os.ReadFile(harness.NewAuthority(t, filepath.Join(t.TempDir(), "pki")).CA())
	require.NoError(t, err)
	bundle := base64.StdEncoding.EncodeToString(ca)
	for _, program := range []string{"helm", "helm3/helm"} {
		helm := func(verb, set string, args ...string) {
			args = append([]string{verb, "inject", "-n", "inject-system", "--kubeconfig", k.Kubeconfig()}, args...)
			if verb != "uninstall" {
				args = append(args, chart, "-f", "-", "--set", "images.registry=inject.test,mutation.mode=webhook"+set)
			}
			_, stderr, err := harness.Helm(t, harness.Bin(t, program), values, args...)
			require.NoError(t, err, stderr)
		}
		configuration := func(args ...string) (o object) {
			args = append(args, "mutatingwebhookconfiguration", "inject-webhook", "-o", "json")
			require.NoError(t, json.Unmarshal([]byte(k.Kubectl(t, "", args...)), &o))
			return o
		}
		helm("install", "")
		var bundled []object
		for _, hook := range list(configuration("get"), "webhooks") {
			require.Empty(t, text(hook, "clientConfig", "caBundle"))
			bundled = append(bundled, object{"name": hook["name"], "clientConfig": object{"caBundle": bundle}})
		}
		patch, err := json.Marshal(object{"webhooks": bundled})
		require.NoError(t, err)
		configuration("patch", "--type", "strategic", "--field-manager", "injectd", "-p", string(patch))

		helm("upgrade", ",webhook.annotations.a=b,taskNamespaces={flyte}")
		now := configuration("get")
		require.Equal(t, "b", text(now, "metadata", "annotations", "a"), program)
		require.NotEmpty(t, list(now, "webhooks"))
		for _, hook := range list(now, "webhooks") {
			require.Equal(t, bundle, text(hook, "clientConfig", "caBundle"), program)
			require.NotContains(t, fmt.Sprint(hook["namespaceSelector"]), "leaving", program)
		}
		helm("uninstall", "")
	}
}
