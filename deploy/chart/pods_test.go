package chart_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// posted returns the request that creates a pod in the namespace flyte.
func posted(edits ...edit) request { return pods.post(pod("new", edits...)) }

// TestFlyte sends what Flyte sends: pods of a Python task and of a raw container with copilot, and a TaskAction.
func TestFlyte(t *testing.T) {
	c := get(t)
	scope := claim("flytesnacks/development")
	for _, file := range []string{"python-mount", "raw-copilot"} {
		file := "testdata/pods/" + file + ".yaml"
		task := func(edits ...edit) request { return pods.post(edited(read(t, file), edits...)) }
		c.wants(t, file, task(), but(scope, ok))
		c.wants(t, file+" without its owner", task(set(nil, "metadata", "ownerReferences")), but(scope, ok))
		// What the author of a task may ask Flyte for is refused for good, with a code at which Flyte gives up.
		c.want(t, file, flyte, task(runsAs("flyte-binary")), claimer)
		named := set("ClusterFirstWithHostNet", "spec", "dnsPolicy")
		c.want(t, file, flyte, task(set(true, "spec", "hostNetwork"), named), invalid("inject-hosts", "hostNetwork"))
		secret := volume(object{"secret": object{"secretName": md5}})
		c.want(t, file, flyte, task(secret), invalid("inject-objects", "a Secret of Flyte's"))
		c.want(t, file, flyte, task(label("organization", "other")), foreign)
		// Later changes of Flyte, of kubelet and of the garbage collector, to what mutation has made of the pod.
		live := c.do(t, flyte, task())
		require.Equal(t, c.mutating, strings.Contains(fmt.Sprint(live["spec"]), "/inject/inject run"))
		name := text(read(t, file), "metadata", "name")
		for _, ch := range []change{finalizer, relabel("flyte.org/x", "y")} {
			for way, r := range c.ways(t, pods, name, "", ch) {
				c.want(t, file+" by "+way, flyte, r, ok)
				c.want(t, file+" by "+way, collector, r, ok)
			}
		}
	}
	task := taskActions.post(read(t, "../../resolver/kubeapi/testdata/taskaction.yaml"))
	c.wants(t, "TaskAction", task, but(action("flytesnacks/development"), ok))
}

func initial(container object) edit { return set([]any{container}, "spec", "initContainers") }

// TestObjects has all the ways in which a pod names a Secret.
func TestObjects(t *testing.T) {
	c := get(t)
	refused := invalid("inject-objects", "a pod does not refer to a Secret of Flyte's")
	ref := func(name string) object { return object{"name": name} }
	variable := func(name string) []any {
		return []any{object{"name": "A", "valueFrom": object{"secretKeyRef": object{"name": name, "key": "k"}}}}
	}
	first := func(o object) edit { return initial(edited(o, set("x:1", "image"), set("i", "name"))) }
	project := func(sources ...any) edit { return volume(object{"projected": object{"sources": sources}}) }
	ways := map[string]func(name string) edit{
		"volume":   func(n string) edit { return volume(object{"secret": object{"secretName": n}}) },
		"variable": func(n string) edit { return container(variable(n), "env") },
		"variables": func(n string) edit {
			return container([]any{object{"secretRef": ref(n)}}, "envFrom")
		},
		"init container's variable": func(n string) edit { return first(object{"env": variable(n)}) },
		"sidecar's variables": func(n string) edit {
			return first(object{"restartPolicy": "Always", "envFrom": []any{object{"secretRef": ref(n)}}})
		},
		"projection": func(n string) edit { return project(object{"configMap": ref("x")}, object{"secret": ref(n)}) },
		"azureFile": func(n string) edit {
			return volume(object{"azureFile": object{"secretName": n, "shareName": "x"}})
		},
	}
	// Volumes of drivers, with what else they must have.
	for driver, fields := range map[string]object{
		"cephfs":     {"monitors": []any{"x"}},
		"cinder":     {"volumeID": "x"},
		"flexVolume": {"driver": "a/b"},
		"iscsi":      {"targetPortal": "10.0.0.1", "iqn": "iqn.2001-04.com.example:x", "lun": 0},
		"rbd":        {"monitors": []any{"x"}, "image": "x"},
		"scaleIO":    {"gateway": "x", "system": "x", "volumeName": "x"},
		"storageos":  {"volumeName": "x", "volumeNamespace": "x"},
	} {
		ways[driver] = func(n string) edit {
			return volume(object{driver: edited(clone(t, fields), set(n, "secretRef", "name"))})
		}
	}
	ways["csi"] = func(n string) edit {
		return volume(object{"csi": object{"driver": "x.example", "nodePublishSecretRef": ref(n)}})
	}
	for way, refer := range ways {
		for _, name := range []string{md5, "img-pull-0123456789abcdef"} {
			for _, u := range []user{stranger, flyte, admin} {
				c.want(t, way, u, posted(refer(name)), refused)
			}
			c.want(t, way+" elsewhere", stranger, posted(refer(name)).elsewhere(), ok)
		}
		for _, name := range []string{
			"copilot-storage-config-secret", md5[1:], md5 + "0", "x" + md5, "img-pull-0123456789abcdeg", "img-pull-x",
		} {
			c.want(t, way+" of "+name, flyte, posted(refer(name)), ok)
		}
	}
	pull := set([]any{ref("img-pull-0123456789abcdef")}, "spec", "imagePullSecrets")
	c.want(t, "pull secret", flyte, posted(pull), ok)

	c.do(t, admin, pods.post(pod("objects")))
	for name, want := range map[string]verdict{md5: refused, "other": ok} {
		container := object{"name": "debug", "image": "x:1", "env": variable(name)}
		debug := to([]any{container}, "spec", "ephemeralContainers")
		for way, r := range c.ways(t, pods, "objects", "ephemeralcontainers", debug) {
			c.want(t, "ephemeral by "+way, stranger, r, want)
		}
	}
}

// TestHosts has the ways in which a pod reaches its node, each beside one that does not.
func TestHosts(t *testing.T) {
	c := get(t)
	context := func(value any, path ...string) edit {
		return container(value, append([]string{"securityContext"}, path...)...)
	}
	first := func(privileged bool) edit {
		return initial(object{"name": "i", "image": "x:1", "securityContext": object{"privileged": privileged}})
	}
	kubelet := volume(object{"hostPath": object{"path": "/var/lib/kubelet"}})
	add := func(names ...any) edit { return context(names, "capabilities", "add") }
	type row struct {
		text         string
		reaches, not []edit
	}
	rows := map[string]row{
		"hostPath": {"no hostPath", []edit{kubelet}, []edit{volume(object{"emptyDir": object{}})}},
		"gitRepo": {
			"no hostPath or gitRepo",
			[]edit{volume(object{"gitRepo": object{"repository": "https://git.example/x"}})},
			[]edit{volume(object{"configMap": object{"name": "x"}})},
		},
		"privileged":      {"no privileged", []edit{context(true, "privileged")}, []edit{context(false, "privileged")}},
		"privileged init": {"no privileged", []edit{first(true)}, []edit{first(false)}},
		"capability":      {"adds no capability", []edit{add("CHOWN", "SYS_ADMIN")}, []edit{add("CHOWN", "KILL")}},
		"all capabilities": {
			"adds no capability", []edit{add("ALL")}, []edit{context([]any{"ALL"}, "capabilities", "drop")},
		},
		"capability by its full name": {"adds no capability", []edit{add("CAP_SYS_PTRACE")}, nil},
	}
	for _, field := range []string{"hostPID", "hostIPC", "hostNetwork"} {
		reaches, not := []edit{set(true, "spec", field)}, []edit{set(false, "spec", field)}
		rows[field] = row{"no hostIPC, hostNetwork or hostPID", reaches, not}
	}
	if c.mutating { // older ones ignore the field
		unmasked := []edit{set(false, "spec", "hostUsers"), context("Unmasked", "procMount")}
		rows["procMount"] = row{"the default procMount", unmasked, []edit{context("Default", "procMount")}}
	}
	for name, row := range rows {
		for _, u := range []user{stranger, flyte, admin} {
			c.want(t, name, u, posted(row.reaches...), invalid("inject-hosts", row.text))
		}
		c.want(t, "not "+name, flyte, posted(row.not...), ok)
		c.want(t, name+" elsewhere", stranger, posted(row.reaches...).elsewhere(), ok)
	}
	// On Windows both are needed, and either sentence may be the first.
	process := object{"windowsOptions": object{"hostProcess": true, "runAsUserName": "x"}}
	for _, e := range []edit{set(process, "spec", "securityContext"), container(process, "securityContext")} {
		windows := []edit{
			set("windows", "spec", "os", "name"), set(nil, "spec", "initContainers"), set(true, "spec", "hostNetwork"),
			e,
		}
		a := c.try(t, flyte, posted(windows...))
		require.Equal(t, http.StatusUnprocessableEntity, a.code, a)
		require.Contains(t, a.message, "inject-hosts-")
		require.True(t, c.try(t, flyte, posted(windows...).elsewhere()).ok())
	}

	c.do(t, admin, pods.post(pod("hosts")))
	for privileged, want := range map[bool]verdict{true: invalid("inject-hosts", "no privileged"), false: ok} {
		container := object{"name": "debug", "image": "x:1", "securityContext": object{"privileged": privileged}}
		debug := to([]any{container}, "spec", "ephemeralContainers")
		for way, r := range c.ways(t, pods, "hosts", "ephemeralcontainers", debug) {
			c.want(t, "ephemeral by "+way, stranger, r, want)
		}
	}
}

// TestExec connects to a pod that does not run, which the API server says after admission.
func TestExec(t *testing.T) {
	c := get(t)
	refused := forbidden("inject-exec", "may not connect to pods of namespace flyte")
	c.do(t, admin, pods.post(pod("connected")))
	c.do(t, admin, pods.post(pod("connected")).elsewhere())
	for _, sub := range []string{"exec?command=x&stdout=true", "attach?stdout=true", "portforward", "proxy"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			r := request{method: method, path: pods.path("connected", sub)}
			send := func(u user, r request) answer {
				a, err := c.send(t.Context(), u, r, false)
				require.NoError(t, err)
				return a
			}
			for _, u := range []user{stranger, member, unlisted} {
				require.True(t, refused.is(send(u, r)), "%s %s by %s: %s", method, sub, u.name, send(u, r))
			}
			for _, u := range []user{flyte, operator, admin} {
				require.NotContains(t, send(u, r).message, "inject-", "%s %s by %s", method, sub, u.name)
			}
			require.NotContains(t, send(stranger, r.elsewhere()).message, "inject-", "%s %s", method, sub)
		}
	}
}

// TestAutoscaler changes a RayCluster as the autoscaler in its head pod does, and as it does not.
func TestAutoscaler(t *testing.T) {
	c := get(t)
	group := func(name string) object {
		return object{"groupName": name, "replicas": 1, "template": pod(name, mine)}
	}
	c.do(t, admin, rayClusters.post(rayClusters.with("scaled", object{
		"headGroupSpec": object{"template": pod("head")}, "workerGroupSpecs": []any{group("a"), group("b")},
	})))
	op := func(op, path string, value any) object { return object{"op": op, "path": path, "value": value} }
	replicas := op("replace", "/spec/workerGroupSpecs/1/replicas", 4)
	workers := object{"workersToDelete": []any{"w"}}
	image := "/template/spec/containers/0/image"
	for name, ops := range map[string][]object{
		"replicas":          {replicas},
		"workers to delete": {replicas, op("add", "/spec/workerGroupSpecs/0/scaleStrategy", workers)},
	} {
		c.want(t, name, driver, rayClusters.patch("scaled", jsonPatch, ops), ok)
	}
	for name, ops := range map[string][]object{
		"an image":        {replicas, op("replace", "/spec/workerGroupSpecs/1"+image, "y:1")},
		"a group more":    {replicas, op("add", "/spec/workerGroupSpecs/-", group("c"))},
		"a group less":    {op("remove", "/spec/workerGroupSpecs/1", nil)},
		"a group renamed": {op("replace", "/spec/workerGroupSpecs/1/groupName", "c")},
		"a new field":     {op("add", "/spec/workerGroupSpecs/1/rayStartParams", object{})},
		"less of a group": {op("remove", "/spec/workerGroupSpecs/1/template", nil)},
		"the head":        {replicas, op("replace", "/spec/headGroupSpec"+image, "y:1")},
		"no head":         {op("remove", "/spec/headGroupSpec", nil)},
		"no groups":       {op("remove", "/spec/workerGroupSpecs", nil)},
		"a field more":    {replicas, op("add", "/spec/entrypoint", "x")},
		"a label":         {replicas, op("replace", "/metadata/labels/own", "y")},
		"an annotation":   {replicas, op("replace", "/metadata/annotations/note", "y")},
		"no spec":         {op("remove", "/spec", nil)},
		"a text as spec":  {op("replace", "/spec", "x")},
		"a text as group": {op("replace", "/spec/workerGroupSpecs/1", "x")},
		"a text as list":  {op("replace", "/spec/workerGroupSpecs", "x")},
	} {
		c.want(t, name, driver, rayClusters.patch("scaled", jsonPatch, ops), anyScope)
		c.want(t, name, operator, rayClusters.patch("scaled", jsonPatch, ops), ok)
	}
	// The same in objects of other kinds.
	for _, k := range workloads {
		if k.kind != "RayCluster" {
			c.do(t, admin, k.post(k.with("scaled", object{"workerGroupSpecs": []any{group("a"), group("b")}})))
			c.want(t, k.kind, driver, k.patch("scaled", jsonPatch, []object{replicas}), anyScope)
		}
	}
}

// TestKueue changes what Kueue changes: it lets gated pods go and starts suspended Jobs. To give a Job's pods a
// node selector, it must be an operator that may claim.
func TestKueue(t *testing.T) {
	c := get(t)
	gates := set([]any{object{"name": "kueue.x-k8s.io/admission"}}, "spec", "schedulingGates")
	selector := object{"zone": "a"}
	c.do(t, admin, pods.post(pod("gated", mine, gates)))
	c.do(t, admin, jobs.post(jobs.object("gated", mine)))
	for name, row := range map[string]struct {
		kind
		changes []change
		verdicts
	}{
		"a pod's gate": {pods, []change{
			to([]any{}, "spec", "schedulingGates"), to(selector, "spec", "nodeSelector"),
			relabel("kueue.x-k8s.io/queue", "q"),
		}, all(ok)},
		"a Job": {jobs, []change{to(false, "spec", "suspend")}, all(ok)},
		"a Job's selector": {jobs, []change{
			to(false, "spec", "suspend"), to(selector, "spec", "template", "spec", "nodeSelector"),
		}, verdicts{claimMine, ok, ok}},
	} {
		c.changed(t, name, c.ways(t, row.kind, "gated", "", row.changes...), row.verdicts)
	}
}

// TestBudget creates and changes pods as large as the API server takes them. A request whose evaluation
// costs more than CEL may is refused with words of its own.
func TestBudget(t *testing.T) {
	t.Parallel()
	c := get(t)
	n := 100
	if testing.Short() {
		n = 10
	}
	c.want(t, "plain", stranger, posted(large(n), func(o object) { delete(in(o, "metadata"), "annotations") }), ok)
	c.want(t, "mine", stranger, posted(large(n), mine), claimMine)
	c.want(t, "mine", member, posted(large(n), mine), ok)
	maker := driver.of(object{"metadata": object{"name": "a", "uid": "1"}})
	c.want(t, "inherited", maker, posted(large(n), mine, stamp("a/1")), ok)

	for _, k := range kinds {
		c.do(t, admin, k.post(k.object("large", large(10), mine)))
		c.want(t, k.kind, stranger, c.ways(t, k, "large", "", finalizer)["json"], ok)
		if k.kind != "Job" {
			c.want(t, k.kind+", image", flyte, c.ways(t, k, "large", "", newImage.of(k))["json"], ok)
		}
	}
	c.want(t, "declares", flyte, c.ways(t, pods, "large", "", note("flyte.secrets/s999", "y"))["json"], changing)
	c.want(t, "ephemeral", member, c.ways(t, pods, "large", "ephemeralcontainers", debug)["json"], ok)

	declared := annotate("flyte.secrets/s0", strings.Repeat("x", 255<<10))
	c.do(t, member, pods.post(pod("long", mine, declared, set(finalizers, "metadata", "finalizers"))))
	released := func(name string) request {
		return pods.patch(name, mergePatch, object{"metadata": object{"finalizers": nil}})
	}
	c.want(t, "an annotation of 255 KiB", collector, released("long"), ok)
	c.want(t, "its end", flyte, pods.patch("long", jsonPatch, []object{
		{"op": "add", "path": "/metadata/annotations/flyte.secrets~1s0", "value": strings.Repeat("x", 254<<10) + "y"},
	}), changing)

	var references []any
	for i := range 1000 {
		references = append(references, object{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": fmt.Sprint(i)})
	}
	many := set(references, "metadata", "ownerReferences")
	c.do(t, member, pods.post(pod("owned", mine, many, set(finalizers, "metadata", "finalizers"))))
	c.want(t, "1000 owners", collector, released("owned"), ok)

	var groups []any
	for i := range 15 {
		groups = append(groups, object{"groupName": fmt.Sprint(i), "replicas": 1, "template": pod("x", large(1))})
	}
	c.do(t, admin, rayClusters.post(rayClusters.with("large", object{"workerGroupSpecs": groups})))
	replicas := object{"op": "replace", "path": "/spec/workerGroupSpecs/14/replicas", "value": 2}
	c.want(t, "RayCluster", driver, rayClusters.patch("large", jsonPatch, []object{replicas}), ok)
}

// large gives a pod 1000 annotations that declare secrets, as many labels, and 40 containers and volumes with n
// references each to Secrets, of names that are almost those of Flyte's.
func large(n int) edit {
	return func(o object) {
		for i := range 1000 {
			annotate(fmt.Sprintf("flyte.secrets/s%d", i), "nnsxsoraejwxsx2lmv3secq")(o)
			label(fmt.Sprintf("example.org/label-%d", i), "x")(o)
		}
		var variables, from, sources []any
		for i := range n {
			ref := object{"name": fmt.Sprintf("%031dx", i)}
			from, sources = append(from, object{"secretRef": ref}), append(sources, object{"secret": ref})
			variables = append(variables, object{
				"name":      fmt.Sprintf("V%d", i),
				"valueFrom": object{"secretKeyRef": object{"name": ref["name"], "key": "k"}},
			})
		}
		containers := []any{list(o, "spec", "containers")[0]}
		for i := range 40 {
			containers = append(containers, object{
				"name": fmt.Sprintf("c%d", i), "image": "x:1", "env": variables, "envFrom": from,
				"securityContext": object{"capabilities": object{"add": []any{"CHOWN", "KILL", "SETUID"}}},
			})
			volume(object{"projected": object{"sources": sources}})(o)
		}
		in(o, "spec")["containers"] = containers
		annotate("primary_container_name", "main")(o)
	}
}
