package chart_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	spec     = []string{"spec", "template"}
	selector = object{"selector": object{"matchLabels": object{"app": "x"}}}

	pods       = kind{apiVersion: "v1", kind: "Pod", resource: "pods"}
	configMaps = kind{apiVersion: "v1", kind: "ConfigMap", resource: "configmaps"}
	templates  = kind{apiVersion: "v1", kind: "PodTemplate", resource: "podtemplates", template: []string{"template"}}

	replications = kind{
		apiVersion: "v1", kind: "ReplicationController", resource: "replicationcontrollers",
		template: spec, fields: object{"selector": object{"app": "x"}}, scale: true,
	}
	daemons = kind{
		apiVersion: "apps/v1", kind: "DaemonSet", resource: "daemonsets",
		template: spec, fields: selector,
	}
	deployments = kind{
		apiVersion: "apps/v1", kind: "Deployment", resource: "deployments",
		template: spec, fields: selector, scale: true,
	}
	replicaSets = kind{
		apiVersion: "apps/v1", kind: "ReplicaSet", resource: "replicasets",
		template: spec, fields: selector, scale: true,
	}
	statefulSets = kind{
		apiVersion: "apps/v1", kind: "StatefulSet", resource: "statefulsets",
		template: spec, fields: object{"selector": selector["selector"], "serviceName": "x"}, scale: true,
	}
	jobs = kind{
		apiVersion: "batch/v1", kind: "Job", resource: "jobs",
		template: spec, fields: object{"suspend": true},
	}
	cronJobs = kind{
		apiVersion: "batch/v1", kind: "CronJob", resource: "cronjobs",
		template: []string{"spec", "jobTemplate", "spec", "template"}, fields: object{"schedule": "* * * * *"},
	}
	// A controller makes the pods of a StatefulSet or a DaemonSet from its ControllerRevisions.
	revisions = kind{apiVersion: "apps/v1", kind: "ControllerRevision", resource: "controllerrevisions"}
)

// kinds are all kinds of Kubernetes that have a pod's spec. TestResources finds those of the API
// server, and fails if one is not here.
var kinds = []kind{pods, templates, replications, daemons, deployments, replicaSets, statefulSets, jobs, cronJobs}

// subresources are those of these kinds, with what a change of them may do to a pod. Rows of the matrix
// try the first word of each.
var subresources = map[string]string{
	"pods/attach":                   "exec: inject-exec",
	"pods/binding":                  "binding: labels and annotations of the pod",
	"pods/ephemeralcontainers":      "ephemeral: runs code",
	"pods/eviction":                 "eviction: deletes",
	"pods/exec":                     "exec: inject-exec",
	"pods/log":                      "read only",
	"pods/portforward":              "exec: inject-exec",
	"pods/proxy":                    "exec: inject-exec",
	"pods/resize":                   "resize: resources only",
	"pods/status":                   "status: labels and annotations",
	"cronjobs/status":               "status: owners",
	"daemonsets/status":             "status: owners",
	"deployments/scale":             "scale: the number of pods only",
	"deployments/status":            "status: owners",
	"jobs/status":                   "status: owners",
	"replicasets/scale":             "scale: the number of pods only",
	"replicasets/status":            "status: owners",
	"replicationcontrollers/scale":  "scale: the number of pods only",
	"replicationcontrollers/status": "status: owners",
	"statefulsets/scale":            "scale: the number of pods only",
	"statefulsets/status":           "status: owners; names ControllerRevisions, which are guarded",
}

// unconcerned are the other resources of a namespace that can be written, each with the reason why no pod
// gets a scope or a token by it.
var unconcerned = map[string]string{
	"bindings":                  "guarded by inject-claims: rows of the matrix",
	"configmaps":                "inject-ca is guarded by inject-tokens",
	"endpoints":                 "addresses; injectd proves itself by its certificate",
	"endpointslices":            "addresses; injectd proves itself by its certificate",
	"events":                    "texts",
	"limitranges":               "defaults of resources",
	"persistentvolumeclaims":    "storage",
	"resourcequotas":            "limits",
	"secrets":                   "the store is in another namespace",
	"serviceaccounts":           "may claim nothing unless a role says so",
	"serviceaccounts/token":     "guarded by inject-tokens",
	"services":                  "addresses; injectd proves itself by its certificate",
	"services/proxy":            "connects to ports of pods, as the network does",
	"controllerrevisions":       "guarded by inject-claims: rows of the matrix",
	"localsubjectaccessreviews": "asks only",
	"horizontalpodautoscalers":  "the number of pods only",
	"leases":                    "texts",
	"ingresses":                 "addresses; injectd proves itself by its certificate",
	"networkpolicies":           "the network",
	"poddisruptionbudgets":      "when pods are evicted",
	"rolebindings":              "RBAC refuses to grant what the user does not have",
	"roles":                     "RBAC refuses to grant what the user does not have",
	"csistoragecapacities":      "storage",
	"resourceclaims":            "devices; adminAccess needs a label of the namespace",
	"resourceclaimtemplates":    "devices; adminAccess needs a label of the namespace",
	"podcertificaterequests":    "certificates, which injectd does not take",
}

// ours are the API groups of Flyte and of the operators. Their kinds, of which pods are made, are those of
// definitions.
var ours = []string{
	"argoproj.io", "flyte.org", "jobset.x-k8s.io", "kubeflow.org", "kubernetes.dask.org", "ray.io",
	"serving.knative.dev", "sparkoperator.k8s.io", "trainer.kubeflow.org",
}

// workloads are kinds of operators, by definitions of our own that take any object.
var workloads = []kind{
	{apiVersion: "argoproj.io/v1alpha1", kind: "Workflow", resource: "workflows"},
	{apiVersion: "flyte.org/v1", kind: "Other", resource: "others"},
	{apiVersion: "jobset.x-k8s.io/v1alpha2", kind: "JobSet", resource: "jobsets"},
	{apiVersion: "kubeflow.org/v1", kind: "PyTorchJob", resource: "pytorchjobs", scale: true},
	{apiVersion: "kubernetes.dask.org/v1", kind: "DaskCluster", resource: "daskclusters"},
	{apiVersion: "kubernetes.dask.org/v1", kind: "DaskWorkerGroup", resource: "daskworkergroups", scale: true},
	rayClusters,
	{apiVersion: "ray.io/v1", kind: "RayJob", resource: "rayjobs"},
	{apiVersion: "serving.knative.dev/v1", kind: "Revision", resource: "revisions"},
	{apiVersion: "serving.knative.dev/v1", kind: "Service", resource: "services"},
	{apiVersion: "sparkoperator.k8s.io/v1beta2", kind: "SparkApplication", resource: "sparkapplications"},
	{apiVersion: "trainer.kubeflow.org/v1alpha1", kind: "TrainJob", resource: "trainjobs"},
}

var (
	rayClusters = kind{apiVersion: "ray.io/v1", kind: "RayCluster", resource: "rayclusters"}
	taskActions = kind{apiVersion: "flyte.org/v1", kind: "TaskAction", resource: "taskactions"}
)

// definitions makes the kinds of operators.
func (c *cluster) definitions(t testing.TB) {
	t.Helper()
	all := append(slices.Clone(workloads), taskActions)
	for _, k := range all {
		group, version, _ := strings.Cut(k.apiVersion, "/")
		sub := object{"status": object{}}
		if k.scale {
			sub["scale"] = object{"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
		}
		everything := object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
		c.do(t, admin, post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", object{
			"metadata": object{
				"name":        k.resource + "." + group,
				"annotations": object{"api-approved.kubernetes.io": "unapproved, for tests"},
			},
			"spec": object{
				"group": group, "scope": "Namespaced",
				"names": object{"kind": k.kind, "plural": k.resource, "singular": strings.ToLower(k.kind)},
				"versions": []object{{
					"name": version, "served": true, "storage": true, "subresources": sub,
					"schema": object{"openAPIV3Schema": everything},
				}},
			},
		}))
	}
	for _, k := range all {
		path := collection(k.apiVersion, k.resource, "")
		c.until(t, k.resource, func() string { return c.try(t, admin, fetch(path)).String() }, "200")
	}
}

// A resource is one of the API server's discovery.
type resource struct{ group, version, name, kind string }

// discovered returns all resources of the API server that are in namespaces and can be written.
func (c *cluster) discovered(t testing.TB) (all []resource) {
	t.Helper()
	versions := map[string]bool{"v1": true}
	for _, g := range list(c.do(t, admin, fetch("/apis")), "groups") {
		for _, v := range list(g, "versions") {
			versions[text(v, "groupVersion")] = true
		}
	}
	for version := range versions {
		group, name, _ := strings.Cut(version, "/")
		if name == "" {
			group, name = "", version
		}
		path := strings.TrimSuffix(collection(version, "", ""), "/")
		for _, r := range list(c.do(t, admin, fetch(path)), "resources") {
			verbs := fmt.Sprint(r["verbs"])
			written := func(verb string) bool { return strings.Contains(verbs, verb) }
			if r["namespaced"] == true && slices.ContainsFunc([]string{"create", "update", "patch"}, written) {
				all = append(all, resource{group, name, text(r, "name"), text(r, "kind")})
			}
		}
	}
	return all
}

// has tells whether the API server has a resource.
func (c *cluster) has(t testing.TB, name string) bool {
	t.Helper()
	return slices.ContainsFunc(c.discovered(t), func(r resource) bool { return r.name == name })
}

// TestResources finds every resource of the API server that has the spec of a pod in it, in its
// published schemas, and every subresource of those. What the tables above do not have, no policy was
// written for.
func TestResources(t *testing.T) {
	c := get(t)
	known, found, seen := map[string]kind{}, map[string]bool{}, map[string]bool{}
	for _, k := range kinds {
		known[k.resource] = k
	}
	schemas := c.schemas(t)
	for _, r := range c.discovered(t) {
		if slices.Contains(ours, r.group) {
			continue
		}
		seen[r.name] = true
		main, _, sub := strings.Cut(r.name, "/")
		_, isKnown := known[main]
		_, isOther := unconcerned[main]
		switch {
		case isKnown && sub:
			require.Contains(t, subresources, r.name, "a new subresource: what can it do to a pod?")
			continue
		case isOther && strings.HasSuffix(r.name, "/status"):
			continue
		}
		paths := podSpecs(schemas(r), r)
		if len(paths) == 0 {
			require.Contains(t, unconcerned, r.name, "a new resource of group %q: can a pod come of it?", r.group)
			continue
		}
		require.True(t, isKnown, "a new resource with a pod's spec at %v, for the policies and the table: %v", paths, r)
		want := strings.Join(append(slices.Clone(known[r.name].template), "spec"), ".")
		require.Equal(t, []string{want}, paths, r)
		found[r.name] = true
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(known)), slices.Collect(maps.Keys(found)))
	if c.mutating { // older API servers have fewer
		for name := range unconcerned {
			require.Contains(t, seen, name, "no resource of this name")
		}
		for name, does := range subresources {
			require.Equal(t, does != "read only", seen[name], name)
		}
	}
}

// schemas returns a function that gives the published schemas of a resource's group and version.
func (c *cluster) schemas(t testing.TB) func(resource) object {
	t.Helper()
	index := in(c.do(t, admin, fetch("/openapi/v3")), "paths")
	known := map[string]object{}
	return func(r resource) object {
		path := "apis/" + r.group + "/" + r.version
		if r.group == "" {
			path = "api/" + r.version
		}
		if known[path] == nil {
			known[path] = in(c.do(t, admin, fetch(text(index, path, "serverRelativeURL"))), "components", "schemas")
		}
		return known[path]
	}
}

// podSpecs returns the paths of the specs of pods in a resource's schema.
func podSpecs(schemas object, r resource) (paths []string) {
	var walk func(schema object, path, above []string)
	walk = func(schema object, path, above []string) {
		for _, one := range []string{"allOf", "oneOf", "anyOf"} {
			for _, s := range list(schema, one) {
				walk(s, path, above)
			}
		}
		for _, every := range []string{"items", "additionalProperties"} {
			if s, ok := schema[every].(object); ok {
				walk(s, append(slices.Clone(path), "*"), above)
			}
		}
		properties := in(schema, "properties")
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			walk(in(properties, name), append(slices.Clone(path), name), above)
		}
		name := strings.TrimPrefix(text(schema, "$ref"), "#/components/schemas/")
		switch {
		case strings.HasSuffix(name, ".core.v1.PodSpec"):
			paths = append(paths, strings.Join(path, "."))
		case name != "" && !slices.Contains(above, name):
			walk(in(schemas, name), path, append(slices.Clone(above), name))
		}
	}
	for name := range schemas {
		for _, k := range list(schemas, name, "x-kubernetes-group-version-kind") {
			if text(k, "group") == r.group && text(k, "version") == r.version && text(k, "kind") == r.kind {
				walk(in(schemas, name), nil, nil)
			}
		}
	}
	return paths
}
