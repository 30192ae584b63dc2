package main_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"inject/internal/annotation"
	"inject/internal/harness"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

// tasks is a task namespace with policies of the names that the server looks for. They refuse nothing: what
// they would refuse is tested with the chart.
type tasks struct {
	*harness.Kubernetes

	namespace, config string // config is that of the server, without the claimers
	path              string // of the binding of inject-claims
}

func newTasks(t *testing.T) *tasks {
	t.Helper()
	k := kubernetes.Get(t)
	n := &tasks{Kubernetes: k, namespace: k.Namespace(t)}
	type object = map[string]any
	const group = "/apis/admissionregistration.k8s.io/v1/"
	create := func(resource, base string, spec object) string {
		body := object{"metadata": object{"generateName": base + "-"}, "spec": spec}
		var dry struct{ Spec any }
		require.NoError(t, json.Unmarshal(k.Call(t, http.MethodPost, group+resource+"?dryRun=All", body), &dry))
		text, err := json.Marshal(dry.Spec)
		require.NoError(t, err)
		sum := sha256.Sum256(text)
		name := base + "-" + hex.EncodeToString(sum[:8])
		k.Call(t, http.MethodPost, group+resource, object{"metadata": object{"name": name}, "spec": spec})
		return name
	}
	n.config = "version: 1\norganization: flyte\ntaskNamespaces: [" + n.namespace + "]\npolicies:\n"
	for _, base := range []string{
		"inject-accounts", "inject-claims", "inject-hosts", "inject-tokens", "inject-workloads",
	} {
		policy := create("validatingadmissionpolicies", base, object{
			"matchConstraints": object{"resourceRules": []object{{
				"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "operations": []string{"CREATE"},
				"resources": []string{"configmaps"},
			}}},
			"validations": []object{{"expression": "'" + rand.Text() + "' != ''"}},
		})
		binding := create("validatingadmissionpolicybindings", base, object{
			"policyName": policy, "validationActions": []string{"Deny"},
			"matchResources": object{"namespaceSelector": object{"matchExpressions": []object{{
				"key": "kubernetes.io/metadata.name", "operator": "In", "values": []string{n.namespace},
			}}}},
		})
		n.config += fmt.Sprintf("- {name: %s, binding: %s}\n", policy, binding)
		if base == "inject-claims" {
			n.path = group + "validatingadmissionpolicybindings/" + binding
		}
	}
	account := object{"metadata": object{"name": "default"}}
	k.Call(t, http.MethodPost, "/api/v1/namespaces/"+n.namespace+"/serviceaccounts", account)
	return n
}

// token makes a pod that says a scope and declares keys, and returns its name and its token.
func (n *tasks) token(t *testing.T, project, domain string, keys ...string) (pod, token string) {
	t.Helper()
	type object = map[string]any
	annotations := map[string]string{}
	for i, key := range keys {
		annotations[fmt.Sprint(annotation.Prefix, i)] = annotation.Encode(secret.Declaration{Key: key})
	}
	pod = "pod-" + strings.ToLower(rand.Text())
	home := "/api/v1/namespaces/" + n.namespace
	var made struct{ Metadata struct{ UID string } }
	require.NoError(t, json.Unmarshal(n.Call(t, http.MethodPost, home+"/pods", object{
		"metadata": object{
			"name": pod, "annotations": annotations,
			"labels": object{"project": project, "domain": domain, "team": "x"},
		},
		"spec": object{
			"serviceAccountName": "default", "nodeName": "node-1",
			"containers": []object{{"name": "main", "image": "x:1"}},
		},
	}), &made))
	answer := n.Call(t, http.MethodPost, home+"/serviceaccounts/default/token", object{"spec": object{
		"audiences": []string{"inject"}, "expirationSeconds": 600,
		"boundObjectRef": object{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": made.Metadata.UID},
	}})
	var minted struct{ Status struct{ Token string } }
	require.NoError(t, json.Unmarshal(answer, &minted))
	return pod, minted.Status.Token
}

// reader returns the kubeconfig of a user with the rights that a server needs for pods, and no more.
func (n *tasks) reader(t *testing.T) string {
	t.Helper()
	policies := []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"}
	return n.User(t, "", []harness.Rule{
		{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}},
		{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: policies, Verbs: []string{"get", "list"}},
	})
}

const podPolicy = `version: 1
rules:
- name: alice
  identity: {token: alice}
  manage: [{project: "*", domain: "*"}]
  list: [{project: "*", domain: "*"}]
- name: tasks
  identity:
    kubernetes.namespace: "test-*"
    kubernetes.project: "{project}"
    kubernetes.domain: "{domain}"
    kubernetes.label.team: x
  resolve: {project: "{project}", domain: "{domain}", declared: true, also: [PLATFORM]}
`

// servePods starts a server for the pods of n.
func servePods(t *testing.T, n *tasks, claimers string, flags ...string) *flyte {
	t.Helper()
	config := t.TempDir() + "/kube.yaml"
	require.NoError(t, os.WriteFile(config, []byte(n.config+"claimers: "+claimers+"\n"), 0o600))
	return startFlyteWith(t, podPolicy, append([]string{
		"--kube-identity", config, "--kube-identity-kubeconfig", n.reader(t), "--kube-identity-margin", "0s",
	}, flags...)...)
}

// client returns a client with a token.
func (f *flyte) client(token string) *rpc.Client {
	f.t.Helper()
	c, err := rpc.Open(rpc.Options{
		Address: "localhost:" + f.port(), TLS: true, CAFile: f.home + "/pki/ca.pem",
		Token: secret.NewValue([]byte(token)), Timeout: 10 * time.Second,
	})
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, c.Close()) })
	return c
}

// TestPods has a pod that resolves what its task declares, and what the policy adds.
func TestPods(t *testing.T) {
	t.Parallel()
	n := newTasks(t)
	f := servePods(t, n, "[{namespace: flyte-system, name: flyte-binary}]")
	project := "p-" + strings.ToLower(rand.Text())
	alice := f.client(strings.TrimSpace(read(t, f.home+"/token")))
	at := secret.Scope{Org: "flyte", Project: project, Domain: "development"}
	values := map[string][]byte{}
	for _, key := range []string{"DECLARED", "OTHER", "PLATFORM"} {
		values[key] = append([]byte("'\"$\n\x00é"), rand.Text()...)
		require.NoError(t, alice.Create(t.Context(), secret.Ref{Scope: at, Key: key}, secret.NewValue(values[key]),
			store.Regular))
	}

	pod, token := n.token(t, project, "development", "DECLARED", "GONE")
	c := f.client(token)
	resolve := func(c *rpc.Client, at secret.Scope, keys ...string) ([]secret.Value, error) {
		var declared []secret.Declaration
		for _, key := range keys {
			declared = append(declared, secret.Declaration{Key: key})
		}
		var all []secret.Value
		results, err := c.Resolve(t.Context(), at, declared)
		for _, r := range results {
			all = append(all, r.Value)
		}
		return all, err
	}
	got, err := resolve(c, at, "DECLARED", "PLATFORM")
	require.NoError(t, err)
	require.True(t, bytes.Equal(values["DECLARED"], got[0].Reveal()))
	require.True(t, bytes.Equal(values["PLATFORM"], got[1].Reveal()))

	// What is there and was not declared looks like what was declared and is not there.
	_, gone := resolve(c, at, "GONE")
	require.ErrorIs(t, gone, secret.ErrNotFound)
	_, other := resolve(c, at, "OTHER")
	require.ErrorIs(t, other, secret.ErrNotFound)
	require.Equal(t, strings.ReplaceAll(gone.Error(), "GONE", "OTHER"), other.Error())
	_, err = resolve(c, secret.Scope{Org: "flyte", Project: "another", Domain: "development"}, "DECLARED")
	require.ErrorIs(t, err, secret.ErrDenied)

	type line struct {
		Method, Who, Rule, Decision, Reason string
		Claims                              map[string][]string
	}
	lines := func(f *flyte) (all []line) {
		for text := range strings.Lines(f.audited()) {
			var one line
			require.NoError(t, json.Unmarshal([]byte(text), &one))
			all = append(all, one)
		}
		return all
	}
	var ours []line
	for _, one := range lines(f) {
		if one.Method == "kubernetes" {
			ours = append(ours, one)
		}
	}
	require.Len(t, ours, 4)
	require.Equal(t, n.namespace+"/"+pod, ours[0].Who)
	require.Equal(t, "tasks", ours[0].Rule)
	require.Equal(t, []string{"node-1"}, ours[0].Claims["node"])
	require.Equal(t, []string{"default"}, ours[0].Claims["serviceaccount"])
	require.NotEmpty(t, ours[0].Claims["uid"])
	require.NotContains(t, ours[0].Claims, "protection")

	metric := func(f *flyte, name string) float64 {
		var value float64
		require.Eventually(t, func() (has bool) {
			values, _ := scrape(t, f.server)
			value, has = values["inject_pods_"+name]
			return has
		}, time.Minute, 50*time.Millisecond, name)
		return value
	}
	in := `{namespace="` + n.namespace + `"}`
	require.InDelta(t, 1, metric(f, "vouched"+in), 0)
	require.InDelta(t, 1, metric(f, "protected"+in), 0)
	require.InDelta(t, time.Now().Unix(), metric(f, "read_timestamp_seconds"), 60)
	require.InDelta(t, 4, metric(f, `total{reason="identified"}`), 0)
	require.Contains(t, f.server.stderr.String(), `"pods":"protected"`)

	// A claimer in the task namespace leaves pods unprotected, which the operator may accept.
	claimer := "[{namespace: " + n.namespace + ", name: flyte-binary}]"
	refuses := servePods(t, n, claimer)
	_, err = resolve(refuses.client(token), at, "GONE")
	require.ErrorIs(t, err, secret.ErrDenied)
	require.ErrorContains(t, err, "the credentials were refused")
	require.Contains(t, secret.Hint(err), "the secrets of pods would not be protected in this cluster")
	require.Equal(t, "unprotected", lines(refuses)[0].Reason)
	require.InDelta(t, 0, metric(refuses, "protected"+in), 0)
	require.InDelta(t, 1, metric(refuses, "vouched"+in), 0)
	require.InDelta(t, 1, metric(refuses, `total{reason="unprotected"}`), 0)
	require.Contains(t, refuses.server.stderr.String(), `"pods":"unprotected"`)
	accepts := servePods(t, n, claimer, "--kube-accept-unprotected")
	_, err = resolve(accepts.client(token), at, "GONE")
	require.ErrorIs(t, err, secret.ErrNotFound)
	require.Equal(t, []string{"unprotected"}, lines(accepts)[0].Claims["protection"])
	require.InDelta(t, 0, metric(accepts, "protected"+in), 0)
	require.Contains(t, accepts.server.stderr.String(), "UNPROTECTED")

	// So do secrets in the task namespace.
	inside := servePods(t, n, "[]", "--key-file=", "--store", "kube://"+n.namespace+"?kubeconfig="+n.Kubeconfig())
	_, err = resolve(inside.client(token), at, "GONE")
	require.ErrorIs(t, err, secret.ErrDenied)
	require.Equal(t, "unprotected", lines(inside)[0].Reason)
	require.Contains(t, inside.server.stderr.String(), "the namespace of the secrets, "+n.namespace)

	// Without a policy no pod is served, and others are.
	n.Call(t, http.MethodDelete, n.path, nil)
	for _, f := range []*flyte{f, accepts} {
		_, err = resolve(f.client(token), at, "DECLARED")
		require.ErrorIs(t, err, secret.ErrDenied)
		require.Contains(t, secret.Hint(err), "are not in force: ask the server's operator")
	}
	_, err = alice.Describe(t.Context(), secret.Ref{Scope: at, Key: "DECLARED"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		values, _ := scrape(t, f.server)
		return values["inject_pods_vouched"+in] == 0
	}, time.Minute, 100*time.Millisecond)

	// A token that is no pod's is for the others that know tokens.
	_, err = resolve(f.client("x"), at, "DECLARED")
	require.ErrorIs(t, err, secret.ErrDenied)
}
