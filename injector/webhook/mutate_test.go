package webhook_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"pgregory.net/rapid"

	"inject/injector/webhook"
)

const configFile = `version: 1
taskNamespaces: [flyte]
image: inject.test/inject:1
pullPolicy: IfNotPresent
delivery: init
command: [/inject/inject, run, --store, "grpcs://injectd.inject-system.svc.cluster.local.:8093"]
outputs: [/var/outputs]
files: true
pullSecret: inject-pull
pythonEntrypoint: none
rawEntrypoint: none
entrypoints:
- {image: "example.com/spark:", command: [/opt/entrypoint.sh]}
- {image: "example.com/", command: [/other.sh, -x]}
- {image: "none.example.com/", command: []}
- {image: "dollar.test/", command: [/$(A)]}
resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
`

// parse returns the configuration of the tests with pairs of texts in it replaced.
func parse(t require.TestingT, replaced ...string) *webhook.Config {
	for i := 0; i < len(replaced); i += 2 {
		require.Contains(t, configFile, replaced[i])
	}
	c, err := webhook.Parse([]byte(strings.NewReplacer(replaced...).Replace(configFile)))
	require.NoError(t, err)
	return c
}

type (
	object = map[string]any
	list   = []any
)

// What is of another type is empty.
func obj(v any) object { o, _ := v.(object); return o }
func items(v any) list { l, _ := v.(list); return l }
func str(v any) string { s, _ := v.(string); return s }

// newPod returns the pod of a Python task, with containers of these names.
func newPod(names ...string) (pod object, first object) {
	if len(names) == 0 {
		names = []string{"run-a0-0"}
	}
	var containers list
	for _, name := range names {
		containers = append(containers, object{
			"name": name, "image": "task:1", "args": list{"a0", "--inputs", "<s3://x>"},
			"env": list{object{"name": "K", "value": "v"}},
		})
	}
	return object{
		"metadata": object{
			"name": "run-a0-0", "labels": object{"project": "p", "domain": "d", "inject-flyte-secrets": "true"},
			"annotations": object{},
		},
		"spec": object{"containers": containers, "future": object{"field": list{1.5, nil, "x"}}},
	}, obj(containers[0])
}

// apply returns pod with the operations, as the API server applies them: with the same library.
func apply(t require.TestingT, pod []byte, o []webhook.Operation) []byte {
	text, err := json.Marshal(o)
	require.NoError(t, err)
	patch, err := jsonpatch.DecodePatch(text)
	require.NoError(t, err)
	after, err := patch.Apply(pod)
	require.NoError(t, err)
	return after
}

func encode(t require.TestingT, v any) []byte {
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return text
}

func decode(t require.TestingT, text []byte) (o object) {
	require.NoError(t, json.Unmarshal(text, &o))
	return o
}

// mutated returns pod as the webhook makes it.
func mutated(t require.TestingT, c *webhook.Config, pod object) object {
	text := encode(t, pod)
	r := webhook.Mutate(c, text)
	require.Equal(t, webhook.Changed, r.Outcome, r.Reason)
	return decode(t, apply(t, text, r.Operations))
}

// A whole pod, field by field.
func TestMutate(t *testing.T) {
	t.Parallel()
	pod, first := newPod()
	first["volumeMounts"] = list{object{"name": "out", "mountPath": "/var/outputs"}}
	first["env"] = list{
		object{"name": "INJECT_STORE", "value": "x"}, object{"name": "K", "value": "v"}, object{"name": "INJECT_"},
	}
	spec := obj(pod["spec"])
	spec["volumes"] = list{object{"name": "out", "emptyDir": object{}}}
	spec["initContainers"] = list{object{"name": "earlier"}}
	spec["imagePullSecrets"] = list{object{"name": "own"}}
	spec["securityContext"] = object{"runAsUser": 1000}
	got := mutated(t, parse(t), pod)

	const want = `
metadata: as before
spec:
  future: {field: [1.5, null, x]}
  securityContext: {runAsUser: 1000}
  imagePullSecrets: [{name: own}, {name: inject-pull}]
  volumes:
  - {name: out, emptyDir: {}}
  - {name: inject, emptyDir: {sizeLimit: 64Mi}}
  - name: inject-pod
    projected:
      defaultMode: 292
      sources:
      - serviceAccountToken: {path: token, audience: inject, expirationSeconds: 600}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      - configMap: {name: inject-ca, optional: true, items: [{key: ca.crt, path: ca.crt}]}
  - {name: inject-files, emptyDir: {medium: Memory}}
  initContainers:
  - name: inject
    image: inject.test/inject:1
    imagePullPolicy: IfNotPresent
    args: [init, --copy-to, /copy]
    volumeMounts: [{name: inject, mountPath: /copy}]
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
    securityContext:
      runAsNonRoot: true
      runAsUser: 1000
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
  - {name: earlier}
  containers:
  - name: run-a0-0
    image: "task:1"
    command: [/inject/inject, run, --store, "grpcs://injectd.inject-system.svc.cluster.local.:8093",
      --outputs, /var/outputs, --termination-log, /dev/termination-log, --grace, 20s, --]
    args: [a0, --inputs, "<s3://x>"]
    env: [{name: K, value: v}]
    volumeMounts:
    - {name: out, mountPath: /var/outputs}
    - {name: inject, mountPath: /inject, readOnly: true}
    - {name: inject-pod, mountPath: /run/inject, readOnly: true}
    - {name: inject-files, mountPath: /etc/flyte/secrets}
`
	wanted := fromYAML(t, want)
	wanted["metadata"] = pod["metadata"]
	require.Equal(t, decode(t, encode(t, wanted)), got)
}

// Values of the chart that change what every pod gets.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	pod, _ := newPod()
	spec := obj(mutated(t, parse(t, "delivery: init", "delivery: image", "files: true", "files: false",
		"pullSecret: inject-pull", `pullSecret: ""`), pod)["spec"])
	require.NotContains(t, spec, "initContainers")
	require.NotContains(t, spec, "imagePullSecrets")
	require.Len(t, spec["volumes"], 2)
	require.Equal(t, object{
		"name": "inject", "image": object{"reference": "inject.test/inject:1", "pullPolicy": "IfNotPresent"},
	}, items(spec["volumes"])[0])
	require.Len(t, obj(items(spec["containers"])[0])["volumeMounts"], 2)

	// Flyte's own webhook has a volume there.
	pod, first := newPod()
	first["volumeMounts"] = list{object{"name": "embedded-secret-vol", "mountPath": "/etc/flyte/secrets"}}
	require.Equal(t, webhook.Taken, webhook.Mutate(parse(t), encode(t, pod)).Reason)
	require.Equal(t, webhook.Changed, webhook.Mutate(parse(t, "files: true", "files: false"), encode(t, pod)).Outcome)
}

// The rules of the task's container, of its entrypoint and of what cannot be changed. words is what inject
// runs before the args; without it the pod is left for the reason.
func TestRules(t *testing.T) {
	t.Parallel()
	type change = func(pod, spec, first, annotations object)
	entrypoint := func(text any) change {
		return func(_, _, first, annotations object) {
			first["args"] = list{"serve"}
			annotations["inject.flyte.org/entrypoint"] = text
		}
	}
	args := func(words ...any) change {
		return func(_, _, first, _ object) { first["args"] = words }
	}
	mount := func(path string) change {
		return func(_, _, first, _ object) { first["volumeMounts"] = list{object{"name": "x", "mountPath": path}} }
	}
	volume := func(name string) change {
		return func(_, spec, _, _ object) { spec["volumes"] = list{object{"name": name, "emptyDir": object{}}} }
	}
	set := func(at string, value any) change {
		return func(pod, spec, first, _ object) {
			map[string]object{"pod": pod, "spec": spec, "first": first, "metadata": obj(pod["metadata"])}[strings.Split(
				at, ".")[0]][strings.Split(at, ".")[1]] = value
		}
	}
	labels := func(project, domain string) change {
		return set("metadata.labels", object{"project": project, "domain": domain})
	}
	windows, named := object{"kubernetes.io/os": "windows"}, list{object{"name": "inject"}}
	none, nested := list{}, list{"/inject/inject", "run", "--", "x"}
	for name, test := range map[string]struct {
		containers []string
		change     change
		config     []string
		words      list
		reason     webhook.Reason
	}{
		"one container": {words: none, containers: []string{"main"}},
		"named as the pod": {
			words: none, containers: []string{"run-a0-0", "other"},
		},
		"several, none of which is named": {reason: webhook.Unnamed, containers: []string{"a", "b"}},
		"several, and the pod has no name": {
			reason: webhook.Unnamed, containers: []string{"run-a0-0", "b"},
			change: func(pod, _, _, _ object) { delete(obj(pod["metadata"]), "name") },
		},
		"several, one named as Flyte's SDK does":          {words: none, containers: []string{"primary", "b"}},
		"several, and the pod's name is before the SDK's": {words: none, containers: []string{"run-a0-0", "primary"}},
		"an annotation names it": {
			words: none, containers: []string{"main", "run-a0-0"},
			change: func(_, _, _, a object) { a["primary_container_name"] = "main" },
		},
		"two annotations": {
			words: none, containers: []string{"main", "other"},
			change: func(_, _, _, a object) {
				a["primary_container_name"], a["kubectl.kubernetes.io/default-container"] = "other", "main"
			},
		},
		"an empty annotation names none": {
			words: none, change: func(_, _, _, a object) { a["primary_container_name"] = "" },
		},
		"an annotation names another": {
			reason: webhook.Absent, change: func(_, _, _, a object) { a["primary_container_name"] = "x" },
		},
		"no containers":           {reason: webhook.Malformed, change: set("spec.containers", nil)},
		"containers as an object": {reason: webhook.Malformed, change: set("spec.containers", object{})},
		"containers of texts":     {reason: webhook.Malformed, change: set("spec.containers", list{"x"})},
		"args of numbers":         {reason: webhook.Malformed, change: args(1)},
		"a period that is a text": {
			reason: webhook.Malformed, change: set("spec.terminationGracePeriodSeconds", "30"),
		},
		"labels as a list": {reason: webhook.Malformed, change: set("metadata.labels", list{})},

		"its own command":    {words: list{"/run.sh", "-x"}, change: set("first.command", list{"/run.sh", "-x"})},
		"an empty command":   {words: none, change: set("first.command", list{})},
		"the annotation":     {words: list{"/opt/run.sh", "-x"}, change: entrypoint(`["/opt/run.sh","-x"]`)},
		"with spaces":        {words: list{"/opt/run.sh", ""}, change: entrypoint(" [ \"/opt/run.sh\" ,\n\"\" ]\t")},
		"none by annotation": {words: none, change: entrypoint(`[]`)},
		"a word with $": {
			words: list{"/opt/$$(A)", "$$$$", "$$"}, change: entrypoint(`["/opt/$(A)","$$","$"]`),
		},
		"a command with $": {words: list{"$(A)", "$$"}, change: set("first.command", list{"$(A)", "$$"})},
		"an escape":        {reason: webhook.Annotation, change: entrypoint(`["\u002fx"]`)},
		"a number":         {reason: webhook.Annotation, change: entrypoint(`[1]`)},
		"no first word":    {reason: webhook.Annotation, change: entrypoint(`[""]`)},
		"not a list":       {reason: webhook.Annotation, change: entrypoint(`/opt/run.sh`)},
		"a comma too many": {reason: webhook.Annotation, change: entrypoint(`["x",]`)},
		"two lists":        {reason: webhook.Annotation, change: entrypoint(`["x"]["y"]`)},
		"a tab in a word":  {reason: webhook.Annotation, change: entrypoint("[\"x\ty\"]")},
		"empty":            {reason: webhook.Annotation, change: entrypoint(``)},
		"no text":          {reason: webhook.Annotation, change: entrypoint(1)},
		"too long":         {reason: webhook.Annotation, change: entrypoint(`["` + strings.Repeat("é", 4093) + `"]`)},
		"as long as it may be": {
			words: list{strings.Repeat("é", 4092)}, change: entrypoint(`["` + strings.Repeat("é", 4092) + `"]`),
		},
		"bad beside a command": {
			reason: webhook.Annotation, change: func(_, _, first, a object) {
				first["command"], a["inject.flyte.org/entrypoint"] = list{"x"}, "x"
			},
		},
		"good beside a command": {
			words: list{"x"}, change: func(_, _, first, a object) {
				first["command"], a["inject.flyte.org/entrypoint"] = list{"x"}, `["y"]`
			},
		},
		"the table":             {words: list{"/opt/entrypoint.sh"}, change: set("first.image", "example.com/spark:3")},
		"a line with $":         {words: list{"/$$(A)"}, change: set("first.image", "dollar.test/x")},
		"its second line":       {words: list{"/other.sh", "-x"}, change: set("first.image", "example.com/sparkle:3")},
		"none by the table":     {words: none, change: set("first.image", "none.example.com/x")},
		"a runtime by its path": {words: none, change: args("bin/pyflyte-execute")},
		"a worker of Dask":      {words: none, change: args("dask-worker", "--name", "x")},
		"a raw container":       {words: none, change: args("/bin/sh", "-c", "true")},
		"another program":       {reason: webhook.NoEntrypoint, change: args("serve")},
		"no args":               {reason: webhook.NoEntrypoint, change: args()},
		"nothing to run": {
			reason: webhook.NoEntrypoint, change: func(_, _, first, a object) {
				first["args"], a["inject.flyte.org/entrypoint"] = list{}, "[]"
			},
		},
		"a runtime is denied": {
			reason: webhook.NoEntrypoint, config: []string{"pythonEntrypoint: none", "pythonEntrypoint: deny"},
		},
		"a runtime at a path is denied": {
			reason: webhook.NoEntrypoint, config: []string{"pythonEntrypoint: none", "pythonEntrypoint: deny"},
			change: args("/bin/a0"),
		},
		"a raw container is denied": {
			reason: webhook.NoEntrypoint, config: []string{"rawEntrypoint: none", "rawEntrypoint: deny"},
			change: args("/bin/sh"),
		},

		"no project":          {reason: webhook.Unlabelled, change: labels("", "d")},
		"an empty domain":     {reason: webhook.Unlabelled, change: labels("p", "")},
		"no labels":           {reason: webhook.Unlabelled, change: set("metadata.labels", nil)},
		"Windows":             {reason: webhook.Windows, change: set("spec.os", object{"name": "windows"})},
		"Linux":               {words: none, change: set("spec.os", object{"name": "linux"})},
		"a node with Windows": {reason: webhook.Windows, change: set("spec.nodeSelector", windows)},
		"hostNetwork":         {reason: webhook.HostNetwork, change: set("spec.hostNetwork", true)},
		"no hostNetwork":      {words: none, change: set("spec.hostNetwork", false)},
		"hostNetwork with DNS": {
			words: none, change: func(_, spec, _, _ object) {
				spec["hostNetwork"], spec["dnsPolicy"] = true, "ClusterFirstWithHostNet"
			},
		},

		"the volume inject":         {reason: webhook.Taken, change: volume("inject")},
		"the volume inject-pod":     {reason: webhook.Taken, change: volume("inject-pod")},
		"the volume inject-files":   {reason: webhook.Taken, change: volume("inject-files")},
		"the volume injected":       {words: none, change: volume("injected")},
		"the container inject":      {reason: webhook.Taken, containers: []string{"inject"}},
		"another container inject":  {reason: webhook.Taken, containers: []string{"run-a0-0", "inject"}},
		"the init container inject": {reason: webhook.Taken, change: set("spec.initContainers", named)},
		"a mount at ours":           {reason: webhook.Taken, change: mount("/inject")},
		"below ours":                {reason: webhook.Taken, change: mount("/run/inject/x")},
		"with another spelling":     {reason: webhook.Taken, change: mount("//run//inject/")},
		"at the files":              {reason: webhook.Taken, change: mount("/etc/flyte/secrets/g")},
		"beside ours":               {words: none, change: mount("/injected")},
		"above ours":                {words: none, change: mount("/run")},
		"our command alone":         {words: nested, change: set("first.command", nested)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := parse(t, test.config...)
			pod, first := newPod(test.containers...)
			if test.change != nil {
				test.change(pod, obj(pod["spec"]), first, obj(obj(pod["metadata"])["annotations"]))
			}
			text := encode(t, pod)
			r := webhook.Mutate(c, text)
			require.Equal(t, test.reason, r.Reason)
			if test.words == nil {
				require.Equal(t, webhook.Left, r.Outcome)
				require.Empty(t, r.Operations)
				return
			}
			after := decode(t, apply(t, text, r.Operations))
			command := items(obj(items(obj(after["spec"])["containers"])[0])["command"])
			at := slices.Index(command, any("--"))
			require.Equal(t, test.words, append(list{}, command[at+1:]...))
		})
	}
}

// The grace of a task is a part of its pod's.
func TestGrace(t *testing.T) {
	t.Parallel()
	for period, want := range map[any]string{
		nil: "20s", 3600: "3590s", 30: "20s", 19: "9s", 5: "2s", 1: "1s", 0: "1s",
	} {
		pod, _ := newPod()
		spec := obj(pod["spec"])
		spec["terminationGracePeriodSeconds"] = period
		grace := func() string {
			one := obj(items(obj(mutated(t, parse(t), pod)["spec"])["containers"])[0])
			command := items(one["command"])
			return str(command[slices.Index(command, any("--grace"))+1])
		}
		require.Equal(t, want, grace(), period)
		if period == 3600 {
			spec["initContainers"] = list{object{"name": "x", "restartPolicy": "Always"}}
			require.Equal(t, "1800s", grace())
		}
	}
}

// The user of the container that copies is that of the pod, unless that is root.
func TestUser(t *testing.T) {
	t.Parallel()
	for user, want := range map[any]float64{nil: 65532, 0: 65532, 7: 7} {
		pod, _ := newPod()
		obj(pod["spec"])["securityContext"] = object{"runAsUser": user}
		first := obj(items(obj(mutated(t, parse(t), pod)["spec"])["initContainers"])[0])
		require.InDelta(t, want, obj(first["securityContext"])["runAsUser"], 0)
	}
}

// A changed pod is not changed again: nor with the defaults that the API server adds, nor by the next version.
// What is missing of the change is not added.
func TestSecondPass(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"delivery: init", "delivery: image"} {
		c := parse(t, "delivery: init", delivery)
		pod, _ := newPod()
		after := func() (pod2, spec, first object) {
			pod2 = mutated(t, c, pod)
			return pod2, obj(pod2["spec"]), obj(items(obj(pod2["spec"])["containers"])[0])
		}
		whole, spec, first := after()
		require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(c, encode(t, whole)))
		first["terminationMessagePath"] = "/dev/termination-log"
		first["volumeMounts"] = append(items(first["volumeMounts"]), object{"name": "token", "mountPath": "/token"})
		obj(obj(items(spec["volumes"])[1])["projected"])["defaultMode"] = 0o444
		require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(c, encode(t, whole)))
		for _, image := range []string{
			"inject.test/inject:2", "inject.test/inject@sha256:" + strings.Repeat("0", 64),
			"other.test:5000/x/inject:1",
		} {
			next := parse(t, "delivery: init", delivery, "inject.test/inject:1", image)
			require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(next, encode(t, whole)), image)
		}

		empty := object{"name": "inject-pod", "emptyDir": object{}}
		for name, damage := range map[string]func(spec, first object){
			"command":         func(_, first object) { first["command"] = list{"/inject/injected", "run"} },
			"no command":      func(_, first object) { delete(first, "command") },
			"volume":          func(spec, _ object) { spec["volumes"] = items(spec["volumes"])[1:] },
			"another kind":    func(spec, _ object) { items(spec["volumes"])[1] = empty },
			"mount":           func(_, first object) { first["volumeMounts"] = items(first["volumeMounts"])[:1] },
			"place of mount":  func(_, first object) { obj(items(first["volumeMounts"])[0])["mountPath"] = "/x" },
			"writable mount":  func(_, first object) { delete(obj(items(first["volumeMounts"])[0]), "readOnly") },
			"another's image": func(spec, _ object) { otherImage(spec, "inject.test/injected:1") },
		} {
			pod, spec, first := after()
			damage(spec, first)
			r := webhook.Mutate(c, encode(t, pod))
			require.Equal(t, webhook.Result{Outcome: webhook.Left, Reason: webhook.Taken}, r, name)
		}
	}
}

// otherImage has the program come from another image.
func otherImage(spec object, image string) {
	if all, ok := spec["initContainers"].(list); ok {
		obj(all[0])["image"] = image
		return
	}
	obj(items(spec["volumes"])[0])["image"] = object{"reference": image}
}

// A pod that a task's pod makes says so, and nothing else of it changes.
func TestInherit(t *testing.T) {
	t.Parallel()
	const maker, key = "driver/1-2", "inject.flyte.org/inherits"
	pod, _ := newPod()
	meta := obj(pod["metadata"])
	for _, annotations := range []any{nil, object{}, object{"a/b": "c"}, object{key: "other/3"}} {
		meta["annotations"] = annotations
		text := encode(t, pod)
		r := webhook.Inherit(text, maker)
		require.Equal(t, webhook.Changed, r.Outcome)
		after := apply(t, text, r.Operations)
		require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Inherit(after, maker))
		want := object{}
		if old, ok := annotations.(object); ok {
			want = maps.Clone(old)
		}
		want[key] = maker
		got := decode(t, after)
		require.Equal(t, want, obj(got["metadata"])["annotations"])
		obj(got["metadata"])["annotations"] = annotations
		require.Equal(t, decode(t, text), got)
	}
	require.Equal(t, webhook.Left, webhook.Inherit([]byte(`{}`), maker).Outcome)
	require.Equal(t, webhook.Left, webhook.Inherit([]byte(`{"metadata":{"annotations":[]}}`), maker).Outcome)
}

// words are mostly none of ours.
var words = rapid.OneOf(rapid.String(), rapid.String(), rapid.String(), rapid.String(), rapid.SampledFrom([]string{
	"INJECT_X", "K", "/data", "true", "Always", "a0", "/bin/sh", "main",
}), rapid.SampledFrom([]string{
	"INJECT_X", "INJECT_", "inject", "inject-pod", "/inject", "/run/inject/x", `["/run.sh"]`, "[]", "",
}))

// somePod draws a pod: mostly one that is changed, with fields that nobody knows everywhere.
func somePod(t *rapid.T) object {
	some := func(o object) object {
		for name, value := range rapid.MapOfN(rapid.StringMatching(`[a-z]{8}X`), words, 0, 2).Draw(t, "unknown") {
			o[name] = value
		}
		return o
	}
	listOf := func(what string, one func() object) any {
		n := rapid.IntRange(-2, 3).Draw(t, what)
		switch n {
		case -2:
			return nil
		case -1:
			return list{}
		}
		all := list{}
		for range n {
			all = append(all, some(one()))
		}
		return all
	}
	text := func(what string) string { return words.Draw(t, what) }
	textsOf := func(what string) any {
		all := list{}
		for _, w := range rapid.SliceOfN(words, 0, 3).Draw(t, what) {
			all = append(all, w)
		}
		return all
	}
	container := func() object {
		o := object{"name": text("name"), "image": text("image"), "args": textsOf("args")}
		if rapid.Bool().Draw(t, "has command") {
			o["command"] = textsOf("command")
		}
		if rapid.Bool().Draw(t, "has env") {
			o["env"] = listOf("env", func() object { return object{"name": text("env"), "value": text("value")} })
		}
		if rapid.Bool().Draw(t, "has mounts") {
			o["volumeMounts"] = listOf("mounts", func() object {
				return object{"name": text("mount"), "mountPath": text("path")}
			})
		}
		return o
	}
	first := container()
	if rapid.IntRange(0, 9).Draw(t, "runtime") > 0 {
		first["args"] = list{"a0", "<&>"}
	}
	spec := some(object{"containers": list{first}})
	for _, name := range []string{"volumes", "initContainers", "imagePullSecrets", "tolerations"} {
		if rapid.Bool().Draw(t, "has "+name) {
			spec[name] = listOf(name, func() object { return object{"name": text(name)} })
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "several") == 0 {
		spec["containers"] = listOf("containers", container)
	}
	annotations := some(object{})
	for _, name := range []string{"primary_container_name", "inject.flyte.org/entrypoint"} {
		if rapid.IntRange(0, 9).Draw(t, "has "+name) == 0 {
			annotations[name] = text(name)
		}
	}
	return some(object{
		"metadata": some(object{
			"name": text("pod"), "labels": object{"project": "p", "domain": "d"}, "annotations": annotations,
		}),
		"spec": spec,
	})
}

// What a pod has beside the change is the same, byte by byte, and a second pass changes nothing.
func TestRestStays(t *testing.T) {
	t.Parallel()
	c, changed := parse(t), 0
	rapid.Check(t, func(t *rapid.T) {
		pod := encode(t, somePod(t))
		r := webhook.Mutate(c, pod)
		if r.Outcome != webhook.Changed {
			require.Empty(t, r.Operations)
			return
		}
		changed++
		after := apply(t, pod, r.Operations)
		require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(c, after))
		want, got := rest(t, fields(t, pod), false), rest(t, fields(t, after), true)
		for name, value := range want {
			if strings.HasSuffix(name, ".command") && value == "[]" { // an entrypoint may have taken its place
				delete(want, name)
				delete(got, name)
			}
		}
		require.Equal(t, want, got)
	})
	require.Greater(t, changed, 1) // of 20 with -short, most of which are changed
}

func fields(t require.TestingT, text []byte) (all map[string]json.RawMessage) {
	require.NoError(t, json.Unmarshal(text, &all))
	return all
}

// rest returns a pod as bytes by field, without what a change adds and takes away. Lists that may be made by
// it count as empty where there is none.
func rest(t require.TestingT, pod map[string]json.RawMessage, after bool) map[string]string {
	all := map[string]string{}
	spec := fields(t, pod["spec"])
	delete(pod, "spec")
	put := func(at string, from map[string]json.RawMessage) {
		for name, value := range from {
			all[at+name] = string(value)
		}
	}
	parts := func(at string, list json.RawMessage, ours func(object) bool) {
		var items []json.RawMessage
		if len(list) > 0 {
			require.NoError(t, json.Unmarshal(list, &items))
		}
		n := 0
		for _, item := range items {
			if !ours(decode(t, item)) {
				all[fmt.Sprint(at, n)] = string(item)
				n++
			}
		}
	}
	named := func(names ...any) func(object) bool {
		return func(o object) bool { return after && slices.Contains(names, o["name"]) }
	}
	put("", pod)
	parts("volumes", spec["volumes"], named("inject", "inject-pod", "inject-files"))
	parts("initContainers", spec["initContainers"], named("inject"))
	var pullSecrets list
	if len(spec["imagePullSecrets"]) > 0 {
		require.NoError(t, json.Unmarshal(spec["imagePullSecrets"], &pullSecrets))
	}
	parts("imagePullSecrets", spec["imagePullSecrets"], named("inject-pull"))
	var containers []json.RawMessage
	require.NoError(t, json.Unmarshal(spec["containers"], &containers))
	for i, text := range containers {
		one, at := fields(t, text), fmt.Sprint("containers", i, ".")
		// Only the task's container is changed; of the others all is compared, as there nothing is ours.
		parts(at+"volumeMounts", one["volumeMounts"], func(o object) bool {
			return after && slices.Contains([]any{"/inject", "/run/inject", "/etc/flyte/secrets"}, o["mountPath"])
		})
		parts(at+"env", one["env"], func(o object) bool {
			name, _ := o["name"].(string)
			return strings.HasPrefix(name, "INJECT_")
		})
		var command []string
		if len(one["command"]) > 0 {
			require.NoError(t, json.Unmarshal(one["command"], &command))
		}
		if at := slices.Index(command, "--grace"); after && at >= 0 {
			command = command[at+3:]
		}
		all[at+"command"] = fmt.Sprintf("%q", command)
		for _, name := range []string{"volumeMounts", "env", "command"} {
			delete(one, name)
		}
		put(at, one)
	}
	for _, name := range []string{"volumes", "initContainers", "imagePullSecrets", "containers"} {
		delete(spec, name)
	}
	put("spec.", spec)
	return all
}

// No pod makes it panic, what it returns can be applied, and a second pass changes nothing.
func FuzzMutate(f *testing.F) {
	pod, _ := newPod()
	f.Add(encode(f, pod))
	f.Add([]byte(`{"metadata":{"labels":{"project":"p","domain":"d"}},"spec":{"containers":[{"command":["x"]}]}}`))
	f.Add([]byte(`{"spec":{"containers":null},"spec":{"containers":[{"name":"a","name":"b"}]}}`))
	f.Add([]byte(`{"metadata":{"annotations":{"primary_container_name":1}},"spec":[]}`))
	f.Add([]byte(strings.Repeat(`{"spec":`, 1000)))
	c := parse(f)
	f.Fuzz(func(t *testing.T, pod []byte) {
		before := slices.Clone(pod)
		r := webhook.Mutate(c, pod)
		require.Equal(t, before, pod)
		require.Equal(t, r.Outcome == webhook.Changed, len(r.Operations) > 0)
		if r.Outcome == webhook.Changed {
			require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Mutate(c, apply(t, pod, r.Operations)))
		}
		if r := webhook.Inherit(pod, "a/b"); r.Outcome == webhook.Changed {
			pod = apply(t, pod, r.Operations)
			require.Equal(t, webhook.Result{Outcome: webhook.Already}, webhook.Inherit(pod, "a/b"))
		}
	})
}
