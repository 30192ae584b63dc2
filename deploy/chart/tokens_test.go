package chart_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTokens requests tokens: for the audience of injectd and for others, bound to a pod, to a Secret and to
// nothing.
func TestTokens(t *testing.T) {
	c := get(t)
	refused := forbidden("inject-tokens", "are requested by kubelet for that pod")
	for _, name := range []string{"node-1", "node-2"} {
		c.do(t, admin, post("/api/v1/nodes", object{"metadata": object{"name": name}}))
	}
	source := func(audience string) object {
		return object{"serviceAccountToken": object{"path": "t", "audience": audience, "expirationSeconds": 600}}
	}
	tokens := volume(object{"projected": object{"sources": []any{source("inject"), source(""), source("vault")}}})
	task := c.do(t, admin, pods.post(pod("task", mine, runsAs("spark"), set("node-1", "spec", "nodeName"), tokens)))
	c.do(t, admin, post(collection("v1", "secrets", "flyte"), object{"metadata": object{"name": "bound"}}))
	toPod := object{"apiVersion": "v1", "kind": "Pod", "name": "task", "uid": at(task, "metadata", "uid")}
	toSecret := object{"apiVersion": "v1", "kind": "Secret", "name": "bound"}
	ask := func(bound object, audiences ...string) request {
		spec := object{"expirationSeconds": 600}
		if audiences != nil {
			spec["audiences"] = audiences
		}
		if bound != nil {
			spec["boundObjectRef"] = bound
		}
		return post(collection("v1", "serviceaccounts", "flyte")+"/spark/token", object{"spec": spec})
	}

	for _, u := range []user{stranger, member, flyte, operator, injectd, driver, driver.of(task), admin} {
		for name, r := range map[string]request{
			"inject":                             ask(nil, "inject"),
			"inject and others":                  ask(nil, "vault", "inject"),
			"inject for a Secret":                ask(toSecret, "inject"),
			"inject for the pod":                 ask(toPod, "inject"),
			"the API server's for the pod":       ask(toPod),
			"of another audience for the pod":    ask(toPod, "vault"),
			"of two other audiences for the pod": ask(toPod, "vault", "x"),
		} {
			c.want(t, name, u, r, refused)
		}
		for name, r := range map[string]request{
			"the API server's":                 ask(nil),
			"of another audience":              ask(nil, "vault"),
			"of a longer name":                 ask(nil, "inject2"),
			"of another audience for a Secret": ask(toSecret, "vault"),
			"inject elsewhere":                 ask(nil, "inject").elsewhere(),
		} {
			c.want(t, name, u, r, ok)
		}
	}
	for _, audiences := range [][]string{{"inject"}, {"vault"}, nil} {
		c.want(t, "kubelet for its pod", node("node-1"), ask(toPod, audiences...), ok)
		a := c.try(t, node("node-2"), ask(toPod, audiences...))
		require.Equal(t, http.StatusForbidden, a.code, "kubelet of another node: %s", a)
		require.NotContains(t, a.message, "inject-", "the API server's own rule")
	}
	// A user of that name alone is no kubelet, nor is a member of that group alone.
	c.want(t, "the name of a node", person("system:node:node-1"), ask(toPod, "inject"), refused)
	grouped := stranger
	grouped.groups = node("x").groups
	c.want(t, "the group of nodes", grouped, ask(toPod, "inject"), refused)
}

// TestCA changes the ConfigMap with the CA of injectd, and others.
func TestCA(t *testing.T) {
	c := get(t)
	refused := forbidden("inject-tokens", "the ConfigMap inject-ca is changed by injectd only")
	rest := []user{stranger, member, flyte, operator, collector, account("flyte", "injectd"), admin}
	for _, u := range rest {
		c.want(t, "create", u, configMaps.post(configMaps.empty("inject-ca")), refused)
		c.want(t, "apply", u, configMaps.apply(configMaps.empty("inject-ca")), refused)
		c.want(t, "create another", u, configMaps.post(configMaps.empty("inject-cb")), ok)
		c.want(t, "generate a name", u, configMaps.post(object{"metadata": object{"generateName": "inject-ca"}}), ok)
		c.want(t, "create elsewhere", u, configMaps.post(configMaps.empty("inject-ca")).elsewhere(), ok)
	}
	for _, namespace := range []string{"flyte", "leaving"} {
		c.do(t, injectd, post(collection("v1", "configmaps", namespace), configMaps.empty("inject-ca")))
	}
	c.do(t, admin, configMaps.post(configMaps.empty("other")))
	for name, want := range map[string]verdict{"inject-ca": refused, "other": ok} {
		ways := c.ways(t, configMaps, name, "", to(object{"ca.crt": "y"}, "data"))
		ways["delete"] = remove(configMaps.path(name))
		for way, r := range ways {
			for _, u := range rest {
				c.want(t, name+" by "+way, u, r, want)
			}
			c.want(t, name+" by "+way, injectd, r, ok)
		}
	}
	everything := collection("v1", "configmaps", "flyte")
	c.want(t, "delete all", stranger, remove(everything), refused)
	some := request{method: http.MethodDelete, path: everything + "?fieldSelector=metadata.name%3Dother"}
	c.want(t, "delete some", stranger, some, ok)

	// While a namespace is being deleted, it can lose the ConfigMap, and that is all.
	cleaner := account("kube-system", "namespace-controller")
	c.grant(t, "leaving", "all-but-claim", nil, cleaner)
	r := remove(collection("v1", "configmaps", "leaving"))
	c.want(t, "before the namespace ends", cleaner, r, refused)
	c.do(t, admin, remove("/api/v1/namespaces/leaving"))
	c.until(t, "the namespace's end", func() string { return c.try(t, cleaner, r).String() }, "200")
	change := request{
		method: http.MethodPatch, path: collection("v1", "configmaps", "leaving") + "/inject-ca", media: mergePatch,
		body: object{"data": object{"ca.crt": "y"}},
	}
	c.want(t, "while the namespace ends", stranger, change, refused)
	c.want(t, "while the namespace ends", injectd, change, ok)
}

// TestInherits makes pods with the token of a pod.
func TestInherits(t *testing.T) {
	c := get(t)
	parent := c.do(t, admin, pods.post(pod("parent", mine)))
	maker := "parent/" + text(parent, "metadata", "uid")
	inherits := []string{"metadata", "annotations", "inject.flyte.org/inherits"}
	child, heir := driver.of(parent), stamp(maker)

	a := c.want(t, "a stamp that is true", child, posted(mine, heir), ok)
	require.Equal(t, maker, text(a.object, inherits...))
	c.want(t, "any scope, which injectd compares", child, posted(theirs, heir), ok)
	c.want(t, "another organization", child, posted(mine, heir, label("organization", "other")), foreign)
	c.want(t, "an owner", child, posted(mine, heir, ownedBy("v1")), ok)
	c.want(t, "an owner of Kubernetes' own", child, posted(mine, heir, ownedBy("batch/v1")), ok)
	c.want(t, "an operator's object as owner", child, posted(mine, heir, ownedBy("ray.io/v1")), claimMine)
	c.want(t, "a TaskAction as owner", child, posted(mine, heir, owner), claimMine)
	// As kubeflow/spark-operator 2.5 and Spark itself have the owners of an executor.
	executor := func(apiVersion string) edit {
		driver, other := reference("v1"), reference(apiVersion)
		driver["kind"], driver["uid"] = "Pod", "6"
		delete(other, "controller")
		return set([]any{driver, other}, "metadata", "ownerReferences")
	}
	c.want(t, "an owner beside the controller", child, posted(mine, heir, executor("sparkoperator.k8s.io/v1beta2")), ok)
	c.want(t, "a TaskAction beside the controller", child, posted(mine, heir, executor("flyte.org/v1")), owned)
	c.want(t, "an owner without a scope", child, posted(ownedBy("ray.io/v1")), ok)
	c.want(t, "the account of a claimer", child, posted(mine, heir, runsAs("flyte-binary")), claimer)
	c.want(t, "the stamp without a pod's token", driver, posted(mine, heir), stamped)
	c.want(t, "the stamp by a stranger", stranger.of(parent), posted(mine, heir), stamped)
	c.want(t, "the stamp by a claimer", flyte.of(parent), posted(mine, heir), asked)
	c.want(t, "the stamp from another namespace", account("elsewhere", "spark").of(parent), posted(mine, heir), stamped)
	for _, k := range kinds[1:] {
		c.want(t, k.kind, child, k.post(k.object("new", mine, heir)), stamped)
	}
	// A name without a uid is no pod, nor is a uid without a name.
	for key, value := range child.extra {
		half := driver
		half.extra = map[string]string{key: value}
		c.want(t, key+" only", half, posted(mine), claimMine)
		c.want(t, key+" only, stamped", half, posted(mine, heir), stamped)
	}

	if c.mutating {
		for name, edit := range map[string]edit{"without a stamp": mine, "with a false one": stamp("a/1")} {
			a := c.want(t, name, child, posted(mine, edit), ok)
			require.Equal(t, maker, text(a.object, inherits...), name)
			require.Equal(t, "x", text(a.object, "metadata", "annotations", "note"), name)
			require.Equal(t, "/inject/inject", items(list(a.object, "spec", "containers")[0], "command")[0], name)
		}
		for name, edit := range map[string]edit{
			"organization":      label("organization", "flyte"),
			"project":           label("project", "fraud"),
			"domain":            label("domain", "development"),
			"inject label":      label("inject-flyte-secrets", "false"), // true without a project is refused
			"declaration":       annotate("flyte.secrets/s0", "x"),
			"inject annotation": annotate("inject.flyte.org/entrypoint", "[]"),
		} {
			a := c.want(t, name+" only", child, posted(edit), ok)
			require.Equal(t, maker, text(a.object, inherits...), name)
		}
		a := c.want(t, "without a scope", child, posted(), ok)
		require.Empty(t, text(a.object, inherits...))
		// One that may claim the scope is no heir.
		for _, u := range []user{flyte.of(parent), member, flyte} {
			a := c.want(t, "may claim", u, posted(mine), ok)
			require.Empty(t, text(a.object, inherits...), u.name)
		}
	} else {
		c.want(t, "without a stamp", child, posted(mine), claimMine)
	}

	// An account of a task namespace claims nothing, whatever its roles say: tasks of all projects may run as it.
	own, every, next, far := account("flyte", "own"), account("flyte", "every"), account("leaving", "own"),
		account("elsewhere", "own")
	c.grant(t, "flyte", "all-but-claim", nil, own, every, next, far)
	c.grant(t, "flyte", "own-fraud", []object{claims("fraud/development")}, own, next, far)
	c.grant(t, "flyte", "inject-claimer", nil, every)
	c.want(t, "an account of another task namespace", next, posted(mine), claimMine)
	c.want(t, "an account of another namespace", far, posted(mine), ok)
	c.want(t, "an account of another namespace", far, posted(theirs), claimTheirs)
	for _, u := range []user{own, every} {
		c.want(t, "an account of the namespace", u, posted(mine), claimMine)
		c.want(t, "an account of the namespace", u, deployments.post(deployments.object("new", mine)), claimMine)
		c.want(t, "an account of the namespace", u, posted(owner), owned)
		task := taskActions.with("new", object{"project": "fraud", "domain": "development"})
		c.want(t, "an account of the namespace", u, taskActions.post(task), action("fraud/development"))
		c.want(t, "an account of the namespace", u, rayClusters.post(rayClusters.empty("new")), anyScope)
		c.want(t, "an account of the namespace", u, posted(), ok)
		if c.mutating {
			a := c.want(t, "in a task", u.of(parent), posted(mine), ok)
			require.Equal(t, maker, text(a.object, inherits...), u.name)
		}
	}

	// The heir is as fixed as its parent.
	c.do(t, child, pods.post(pod("heir", mine, heir)))
	for name, row := range map[string]struct {
		change
		child, claimer verdict
	}{
		"image":         {newImage, claimMine, ok},
		"another stamp": {change{"other/1", inherits}, stamped, asked},
		"no stamp":      {change{nil, inherits}, claimMine, changing},
		"other label":   {relabel("other", "y"), ok, ok},
	} {
		for way, r := range c.ways(t, pods, "heir", "", row.change) {
			c.want(t, name+" by "+way, child, r, row.child)
			c.want(t, name+" by "+way, flyte, r, row.claimer)
		}
	}
}
