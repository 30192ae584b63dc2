package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
)

// A cluster is an API server of its own with the chart in it: what doctor says is of the whole cluster.
type cluster struct {
	t *testing.T
	k *harness.Kubernetes
	// policies is the file that the chart renders.
	policies string
}

const clusterValues = `
taskNamespaces: [flyte]
claimers:
  accounts: [{namespace: flyte-system, name: flyte-binary}]
  operators: [{namespace: ray-system, name: kuberay-operator, apiGroups: [ray.io]}]
mutation: {mode: "off"} # its policies vouch for nothing
`

// kubectl runs kubectl as an administrator with stdin.
func (c *cluster) kubectl(stdin string, args ...string) string {
	c.t.Helper()
	return c.k.Kubectl(c.t, stdin, args...)
}

// render returns the objects of the chart as YAML.
func (c *cluster) render(args ...string) string {
	c.t.Helper()
	out, stderr, err := harness.Chart(c.t, fmt.Sprintf("1.%d", c.k.Minor(c.t)), clusterValues, args...)
	require.NoError(c.t, err, stderr)
	return out
}

// newCluster starts an API server and installs the chart.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	harness.Bin(t, "helm")
	harness.Bin(t, "kubectl")
	c := &cluster{t: t, k: harness.StartKubernetes(t, harness.KubernetesOptions{})}
	for _, name := range []string{"flyte", "flyte-system", "inject-system", "ray-system"} {
		c.kubectl("", "create", "namespace", name)
	}
	chart := c.render()
	c.kubectl(chart, "create", "-f", "-")
	c.policies = filepath.Join(t.TempDir(), "policies.yaml")
	require.NoError(t, os.WriteFile(c.policies, policiesFile(t, chart), 0o600))
	return c
}

// policiesFile returns the file of the policies that objects of the chart are.
func policiesFile(t *testing.T, objects string) []byte {
	t.Helper()
	type policy struct {
		Name    string `yaml:"name"`
		Binding string `yaml:"binding"`
		Kind    string `yaml:"kind"`
	}
	of := map[string]*policy{}
	var order []string
	for text := range strings.SplitSeq(objects, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				PolicyName string `yaml:"policyName"`
			}
		}
		require.NoError(t, yaml.Unmarshal([]byte(text), &o))
		kind, binding := strings.CutSuffix(o.Kind, "AdmissionPolicyBinding")
		switch {
		case binding:
			of[o.Spec.PolicyName].Binding = o.Metadata.Name
		case strings.HasSuffix(o.Kind, "AdmissionPolicy"):
			kind = strings.TrimSuffix(kind, "AdmissionPolicy")
			of[o.Metadata.Name] = &policy{Name: o.Metadata.Name, Kind: kind}
			order = append(order, o.Metadata.Name)
		}
	}
	var all []*policy
	for _, name := range order {
		all = append(all, of[name])
	}
	file, err := yaml.Marshal(map[string]any{
		"version": 1, "organization": "flyte", "taskNamespaces": []string{"flyte"}, "policies": all,
		"claimers": []map[string]string{
			{"namespace": "flyte-system", "name": "flyte-binary"},
			{"namespace": "ray-system", "name": "kuberay-operator"},
		},
	})
	require.NoError(t, err)
	return file
}

// doctor runs injectd doctor --kube as a user of a kubeconfig.
func (c *cluster) doctor(kubeconfig string, args ...string) (out string, code int) {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "injectd"), append([]string{"doctor", "--kube"}, args...)...)
	cmd.Env = []string{"HOME=" + c.t.TempDir(), "PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig}
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(c.t, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// What is not the same in each run.
var (
	timed     = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	digested  = regexp.MustCompile(`-[0-9a-f]{16}\b|digest [0-9a-f]{16}`)
	versioned = regexp.MustCompile(`v1\.\d+\.\d+, as`)
)

// is compares an output with a file.
func (c *cluster) is(name, out string) {
	c.t.Helper()
	out = strings.ReplaceAll(out, c.k.Dir, "DIR")
	out = timed.ReplaceAllString(out, "TIME")
	out = digested.ReplaceAllString(out, "-DIGEST")
	out = versioned.ReplaceAllString(out, "VERSION, as")
	path := filepath.Join("testdata", "cluster", name+".txt")
	if os.Getenv("INJECT_TEST_UPDATE") != "" {
		require.NoError(c.t, os.WriteFile(path, []byte(out), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(c.t, err)
	require.Equal(c.t, string(want), out, path)
}

// node makes a node with these versions.
func (c *cluster) node(name, kubelet, runtime string) {
	c.t.Helper()
	c.kubectl(fmt.Sprintf("{apiVersion: v1, kind: Node, metadata: {name: %s}}", name), "create", "-f", "-")
	system := "linux"
	if strings.HasPrefix(name, "windows") {
		system = "windows"
	}
	body := map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": name},
		"status": map[string]any{"nodeInfo": map[string]any{
			"kubeletVersion": kubelet, "containerRuntimeVersion": runtime, "operatingSystem": system,
		}},
	}
	c.k.Call(c.t, http.MethodPut, "/api/v1/nodes/"+name+"/status", body)
}

const others = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: taskactions.flyte.org}
spec:
  group: flyte.org
  names: {kind: TaskAction, plural: taskactions}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver-1, namespace: kube-system, labels: {component: kube-apiserver}}
spec: {containers: [{name: c, image: i, command: [kube-apiserver, --encryption-provider-config=/etc/enc.yaml]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: team-fraud, namespace: flyte}
rules:
- apiGroups: [inject.flyte.org]
  resources: [scopes]
  resourceNames: [fraud/production, fraud/development]
  verbs: [claim]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: team-fraud, namespace: flyte}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: team-fraud}
subjects:
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: fraud}
- {kind: ServiceAccount, namespace: ci, name: deployer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: accounts, namespace: flyte}
rules:
- {apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: accounts, namespace: flyte}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: accounts}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: carol}
`

// before are objects that say a scope.
const before = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: forged, namespace: flyte}
spec:
  selector: {matchLabels: {app: a}}
  template: &template
    metadata: {labels: {app: a, project: fraud, domain: production, organization: flyte}}
    spec: {containers: [{name: c, image: i}], restartPolicy: Always}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain, namespace: flyte}
spec:
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: flyte}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        metadata: {annotations: {flyte.secrets/s0: x}}
        spec: {containers: [{name: c, image: i}], restartPolicy: Never}
---
apiVersion: v1
kind: PodTemplate
metadata: {name: flyte-template, namespace: flyte}
template:
  metadata: {labels: {domain: production}}
  spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: running, namespace: flyte, labels: {project: fraud, domain: production, organization: flyte}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: others, namespace: flyte}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: flyte.org/v1
kind: TaskAction
metadata: {name: run-a0, namespace: flyte}
spec: {project: fraud, domain: production}
`

// bad is what should not be.
const bad = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: claims-all}
rules:
- {apiGroups: [inject.flyte.org], resources: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: claims-all, namespace: flyte}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: claims-all}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: mallory}
- {kind: ServiceAccount, namespace: flyte, name: spark}
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:serviceaccounts:flyte"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: claims-all}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: claims-all}
subjects:
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: "system:authenticated"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: argocd}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {kind: ServiceAccount, namespace: argocd, name: controller}
- {kind: ServiceAccount, namespace: flyte, name: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: wide}
rules:
- {apiGroups: [""], resources: [nodes/proxy], verbs: [get]}
- {apiGroups: [""], resources: [users, groups, serviceaccounts], verbs: [impersonate]}
- {apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:wide", labels: {kubernetes.io/bootstrapping: rbac-defaults}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: wide}
subjects:
- {kind: User, apiGroup: rbac.authorization.k8s.io, name: ops}
`

// devs may run commands in pods, unless inject-exec refuses it.
const devs = `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: devs, namespace: flyte}
rules:
- {apiGroups: [""], resources: ["*/exec", pods/attach, pods/portforward], verbs: ["*"]}
- {apiGroups: [""], resources: [serviceaccounts], verbs: [impersonate]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: devs, namespace: flyte}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: devs}
subjects:
- {kind: Group, apiGroup: rbac.authorization.k8s.io, name: devs}
`

// webhook is Flyte's, for namespaces with a label that the API server gives all, unless it is of another
// namespace.
const webhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: flyte-binary-webhook}
webhooks:
- name: flyte-pod-webhook.flyte.org
  clientConfig: {url: "https://127.0.0.1:1/mutate--v1-pod"}
  rules: [{apiGroups: ["*"], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAMESPACE}}
  objectSelector: {matchLabels: {inject-flyte-secrets: "true"}}
  admissionReviewVersions: [v1]
  sideEffects: NoneOnDryRun
`

// doctor --kube tells a cluster that is set well from one that is not, line by line.
func TestDoctorKube(t *testing.T) {
	c := newCluster(t)
	c.kubectl(others, "create", "-f", "-")
	c.kubectl("", "wait", "--for=condition=Established", "crd/taskactions.flyte.org")
	c.kubectl(before, "create", "-f", "-")
	c.node("node-1", "v1.37.2", "containerd://2.4.2")
	admin, store := c.k.Kubeconfig(), "kube://inject-secrets?kubeconfig="+c.k.Kubeconfig()
	asked := []string{
		"--subject", "user:mallory", "--subject", "group:fraud", "--subject", "account:flyte-system/flyte-binary",
	}

	// Everything that the chart makes is new, and some objects were there before.
	out, code := c.doctor(admin, "--store", store, "--kube-identity", c.policies)
	require.Zero(t, code, out)
	c.is("new", out)

	for _, kind := range []string{"validating", "mutating"} {
		for _, object := range []string{"policies", "policybindings"} {
			c.k.Backdate(t, "/registry/"+kind+"admission"+object+"/", time.Hour)
		}
	}
	require.Eventually(t, func() bool {
		out, code = c.doctor(admin, append(asked, "--store", store, "--kube-identity", c.policies)...)
		return !strings.Contains(out, "older than the policies,") && !strings.Contains(out, " only")
	}, time.Minute, time.Second, "the API server has read what etcd has now")
	require.Zero(t, code, out)
	require.NotContains(t, out, "\nwarn")
	c.is("good", out)
	var answer struct {
		OK     bool
		Checks []struct{ Check, State, Text, Hint string }
	}
	out, code = c.doctor(admin, "-o", "json", "--store", store)
	require.Zero(t, code, out)
	require.NoError(t, json.Unmarshal([]byte(out), &answer))
	require.True(t, answer.OK)
	require.Equal(t, "kubernetes", answer.Checks[0].Check)

	// Two policies of a name, as an upgrade that failed leaves them. Pods need not be younger than those that say how
	// pods run inject.
	if c.k.Minor(t) >= 36 {
		c.apply("inject-mutation-", "--set", "mutation.mode=policy", "--set", "mutation.delivery=init")
		c.apply("inject-mutation-", "--set", "mutation.mode=policy", "--set", "mutation.delivery=image")
		out, code = c.doctor(admin)
		require.Zero(t, code, out)
		require.Contains(t, out, "\nwarn  policies       inject-mutation is there twice, also as the binding inject-")
		require.Contains(t, out, "ok    policies       inject-mutation is in force since ")
		require.Contains(t, out, "ok    older ")
		c.remove("inject-mutation")
		c.remove("inject-mutation")
	}

	// For a user without rights the findings name the rights that are missing.
	out, code = c.doctor(c.k.User(t, "", []harness.Rule{}),
		append(asked, "--store", store, "--task-namespace", "flyte")...)
	require.Zero(t, code, out)
	c.is("without-rights", out)

	// What is set in another way is good, too.
	c.kubectl(devs, "create", "-f", "-")
	c.kubectl(strings.ReplaceAll(webhook, "NAMESPACE", "elsewhere"), "create", "-f", "-")
	c.kubectl("", "label", "namespace", "flyte", "pod-security.kubernetes.io/enforce=restricted")
	c.remove("inject-hosts")
	c.add("inject-exec", "policies.exec=true")
	for _, object := range []string{"policies", "policybindings"} {
		c.k.Backdate(t, "/registry/validatingadmission"+object+"/inject-exec", time.Hour)
	}
	require.Eventually(t, func() bool {
		out, code = c.doctor(admin)
		return !strings.Contains(out, " only")
	}, time.Minute, time.Second, "the API server has read what etcd has now")
	require.Zero(t, code, out)
	c.is("other", out)

	// Everything is wrong.
	c.kubectl("", "label", "namespace", "flyte", "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
	c.kubectl(strings.ReplaceAll(webhook, "NAMESPACE", "flyte"), "replace", "-f", "-")
	c.kubectl(bad, "create", "-f", "-")
	c.kubectl("", "delete", "pod", "-n", "kube-system", "kube-apiserver-1", "--force")
	c.kubectl(`
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: kube-system, labels: {component: kube-apiserver}}
spec: {containers: [{name: c, image: i, command: [kube-apiserver]}]}
`, "create", "-f", "-")
	c.node("node-2", "v1.34.4", "containerd://2.1.0")
	c.node("node-3", "v1.35.0", "containerd://1.7.28")
	c.node("node-4", "v1.36.0", "cri-o://1.36.0")
	c.spoil()
	out, code = c.doctor(admin,
		append(asked, "--subject", "account:flyte/spark", "--store", "kube://flyte?kubeconfig="+admin)...)
	require.Equal(t, 1, code, out)
	c.is("bad", out)
	out, code = c.doctor(admin, "--kube-identity", c.policies)
	require.Equal(t, 1, code, out)
	c.is("bad-with-file", out)
	c.delivery()
}

// delivery compares what doctor says of nodes, for nodes and charts of all sorts.
func (c *cluster) delivery() {
	c.t.Helper()
	var all strings.Builder
	look := func(title, kubeconfig string, want int) {
		c.t.Helper()
		out, _ := c.doctor(kubeconfig)
		lines := checkLines(out, "nodes")
		fmt.Fprintf(&all, "# %s\n%s", title, lines)
		require.Equal(c.t, want, strings.Count(lines, "\n"), "%s\n%s", title, out)
	}
	admin := c.k.Kubeconfig()
	c.node("node-5", "v1.33.4", "containerd://1.6.0")
	c.node("node-6", "v1.36.0", "docker://29.6.2")
	c.node("node-7", "v1.36.0", "cri-o://1.30.1")
	c.node("windows-1", "v1.30.0", "containerd://1.7.0")
	c.apply("inject-mutation-", "--set", "mutation.mode=policy", "--set", "mutation.delivery=init")
	look("an init container delivers", admin, 1)
	c.remove("inject-mutation")
	c.apply("inject-mutation-", "--set", "mutation.mode=policy", "--set", "mutation.delivery=image")
	look("an image delivers, by the policy", admin, 2)
	rule := func(group string, resources ...string) harness.Rule {
		return harness.Rule{APIGroups: []string{group}, Resources: resources, Verbs: []string{"list"}}
	}
	hooks := rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations")
	look("a user who may not see the policies", c.k.User(c.t, "", []harness.Rule{rule("", "nodes"), hooks}), 3)
	c.remove("inject-mutation")
	c.apply("inject-webhook\n  labels", "--set", "mutation.mode=webhook", "--set", "mutation.delivery=image")
	look("an image delivers, by the webhook", admin, 2)
	c.kubectl("", "delete", "node", "node-3", "node-5", "node-6", "node-7")
	look("a feature gate may help", admin, 2)
	c.kubectl("", "delete", "node", "node-2")
	look("all nodes have volumes of images", admin, 1)
	c.is("nodes", all.String())
}

// checkLines returns the lines of a check, with their hints.
func checkLines(out, check string) string {
	var all strings.Builder
	mine := false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] != "hint:" {
			mine = fields[1] == check
		}
		if mine {
			all.WriteString(line)
		}
	}
	return all.String()
}

// remove removes a policy and its binding.
func (c *cluster) remove(base string) {
	c.t.Helper()
	policies, bindings := policies, bindings
	if base == "inject-mutation" {
		policies, bindings = "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"
	}
	c.kubectl("", "delete", c.named(base, policies), c.named(base, bindings))
}

// add makes the policy and the binding that the chart has with a value.
func (c *cluster) add(base, value string) {
	c.t.Helper()
	c.apply(base+"-", "--set", value)
}

// apply makes the objects that the chart has with flags of Helm, if the YAML of their names begins with named.
func (c *cluster) apply(named string, flags ...string) {
	c.t.Helper()
	for text := range strings.SplitSeq(c.render(flags...), "\n---\n") {
		if strings.Contains(text, "\n  name: "+named) {
			c.kubectl(text, "apply", "-f", "-")
		}
	}
}

const policies, bindings = "validatingadmissionpolicies", "validatingadmissionpolicybindings"

// named returns the policy or the binding whose name begins with base, as kubectl takes it.
func (c *cluster) named(base, resource string) string {
	c.t.Helper()
	for name := range strings.FieldsSeq(c.kubectl("", "get", resource, "-o", "name")) {
		if strings.Contains(name, "/"+base+"-") {
			return name
		}
	}
	c.t.Fatalf("%s: no %s", resource, base)
	return ""
}

// spoil removes a policy, changes one, makes one young, and has one only audit.
func (c *cluster) spoil() {
	c.t.Helper()
	c.remove("inject-tokens")
	c.remove("inject-exec")
	const ignores = `{"spec": {"failurePolicy": "Ignore"}}`
	c.kubectl("", "patch", c.named("inject-workloads", policies), "--type=merge", "-p", ignores)
	c.kubectl("", "delete", c.named("inject-accounts", bindings))
	c.add("inject-accounts", "policies.enforce=audit")
	c.remove("inject-claims")
	c.add("inject-claims", "policies.objects=true")
}
