package chart_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"inject/internal/harness"
)

// TestControllers runs the controllers of Kubernetes against the policies. They make pods of what a member
// was allowed to claim; what they write themselves passes, to the end of a namespace; and they find no fault
// in the policies' types.
func TestControllers(t *testing.T) {
	t.Parallel()
	k := harness.StartKubernetes(t, harness.KubernetesOptions{Accounts: true})
	if !strings.HasPrefix(harness.KubernetesVersion, fmt.Sprintf("v1.%d.", k.Minor(t))) {
		harness.Skip(t, "the controllers are those of", harness.KubernetesVersion)
	}
	c := setUp(t, k)
	c.StartControllers(t)

	for _, o := range c.objects {
		if text(o, "kind") != "ValidatingAdmissionPolicy" {
			continue
		}
		status := ""
		c.until(t, called(o), func() string {
			status = fmt.Sprint(c.do(t, admin, fetch(home(o)+"/"+text(o, "metadata", "name")))["status"])
			return status
		}, "observedGeneration:1")
		require.NotContains(t, status, "expressionWarnings", called(o))
	}

	// A user with the real role edit, which a controller aggregates.
	editor := person("eve")
	c.grant(t, "flyte", "edit", nil, editor)
	c.until(t, "edit", func() string { return c.try(t, editor, posted()).String() }, "201")

	// app gives an object a label of its own, in its template and its selector.
	app := func(k kind, name string, edits ...edit) object {
		o := k.object(name, append(edits, label("app", name))...)
		if in(o, "spec")["selector"] != nil {
			in(o, "spec")["selector"] = object{"matchLabels": object{"app": name}}
		}
		delete(in(o, "spec"), "suspend")
		return o
	}
	// running counts the pods of an app in a project.
	running := func(app, project string) func() string {
		return func() string {
			n := 0
			found := c.do(t, admin, fetch(collection("v1", "pods", "flyte")+"?labelSelector=app%3D"+app))
			for _, p := range list(found, "items") {
				if text(p, "metadata", "labels", "project") == project {
					n++
				}
			}
			return fmt.Sprint(n, " pods")
		}
	}
	for _, k := range []kind{deployments, replicaSets, jobs} {
		o := app(k, k.resource, mine)
		c.want(t, k.kind, editor, k.post(o), claimMine)
		c.do(t, member, k.post(o))
		c.until(t, k.kind, running(k.resource, "fraud"), "1 pods")
	}
	c.do(t, editor, c.scaled(deployments, "deployments")["merge"])
	c.until(t, "scaled", running("deployments", "fraud"), "5 pods")

	// The chart's value does not list the controller of StatefulSets. Of those without a scope it makes pods,
	// and ControllerRevisions.
	c.do(t, editor, statefulSets.post(app(statefulSets, "plain-set")))
	c.until(t, "a StatefulSet", running("plain-set", ""), "1 pods")
	c.do(t, member, statefulSets.post(app(statefulSets, "scoped-set", mine)))
	events := collection("v1", "events", "flyte") + "?fieldSelector=involvedObject.name%3Dscoped-set"
	c.until(t, "a StatefulSet of a scope", func() string { return fmt.Sprint(c.do(t, admin, fetch(events))["items"]) },
		"statefulset-controller may not claim the scope fraud/development")
	require.Equal(t, "0 pods", running("scoped-set", "fraud")())

	// Each user who may delete an owner can ask the garbage collector to give its objects up. Those that say a
	// scope stay its own, and without one they do not.
	orphan := func(k kind, name string, edits ...edit) (pod object, path string) {
		o := app(k, name, edits...)
		c.do(t, member, k.post(o))
		selected := collection("v1", "pods", "flyte") + "?labelSelector=app%3D" + name
		project := text(o, "spec", "template", "metadata", "labels", "project")
		c.until(t, name, running(name, project), "1 pods")
		pod = list(c.do(t, admin, fetch(selected)), "items")[0]
		c.do(t, editor, request{method: http.MethodDelete, path: k.path(name) + "?propagationPolicy=Orphan"})
		return pod, pods.path(text(pod, "metadata", "name"))
	}
	owners := func(path string) string {
		return fmt.Sprint(at(c.do(t, admin, fetch(path)), "metadata", "ownerReferences"))
	}
	kept, path := orphan(replicaSets, "kept", mine)
	c.until(t, "the collector's try", func() string {
		log, err := os.ReadFile(c.AuditLog())
		require.NoError(t, err)
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "generic-garbage-collector") && strings.Contains(line, path) {
				return line
			}
		}
		return ""
	}, "what says a scope keeps its owners")
	require.Equal(t, fmt.Sprint(at(kept, "metadata", "ownerReferences")), owners(path))
	_, path = orphan(replicaSets, "given-up")
	c.until(t, "an orphan", func() string { return owners(path) }, "<nil>")

	// The garbage collector takes the finalizers away that the API server has set.
	gone := func(path string) func() string { return func() string { return c.try(t, admin, fetch(path)).String() } }
	c.do(t, editor, request{method: http.MethodDelete, path: jobs.path("jobs") + "?propagationPolicy=Foreground"})
	c.until(t, "the Job's end", gone(jobs.path("jobs")), "404")

	c.registriesEnd(t, gone)

	// A namespace ends with all that is in it.
	for _, k := range append(append([]kind{taskActions}, workloads...), kinds...) {
		o := k.with("last", object{"project": "fraud"})
		if !k.custom() {
			o = k.object("last", mine)
		}
		c.do(t, admin, post(collection(k.apiVersion, k.resource, "leaving"), o))
	}
	c.do(t, injectd, post(collection("v1", "configmaps", "leaving"), configMaps.empty("inject-ca")))
	c.do(t, admin, remove("/api/v1/namespaces/leaving"))
	c.until(t, "the namespace's end", gone("/api/v1/namespaces/leaving"), "404")
}
