package chart_test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A mode is a way in which pods come to run inject. All modes make the same pods of the same pods.
type mode struct {
	name string
	// has tells whether the API server of the tests has this mode.
	has func(*cluster) bool
	// begin brings the mode into force in the namespaces that the chart was rendered for. objects are
	// all of that chart; its policies are in the cluster already.
	begin func(t testing.TB, c *cluster, objects []object)
}

var modes = []mode{
	{"policy", func(c *cluster) bool { return c.mutating }, func(testing.TB, *cluster, []object) {}},
	{"webhook", func(*cluster) bool { return true }, func(t testing.TB, c *cluster, objects []object) {
		webhookMode(t, c, objects)
	}},
}

// goldens are folders of pods, each with the values of the chart that they are for. NAME.yaml is a pod as its
// maker creates it. Beside it is NAME.want.yaml, which is that pod with what mutation changes and nothing
// else, or NAME.refused.txt, with the code and the words of the refusal. They are the specification of all
// modes: a mode is tested without a server by applying its changes to NAME.yaml.
var goldens = map[string]string{
	"testdata/pods":         "",
	"testdata/pods/coexist": "mutation.coexist=true",
	"testdata/pods/image":   "mutation.delivery=image,mutation.pullSecret=",
	"testdata/pods/deny":    "mutation.pythonEntrypoint=deny,mutation.rawEntrypoint=deny",
	"testdata/pods/storage": `mutation.storage=guard,mutation.outputs={/a,/b},` +
		`mutation.entrypoints[0].image=odd:,mutation.entrypoints[0].command={/a "b" 'c' <d>,e,$(F)$$}`,
}

// A golden is a pod, and what becomes of it.
type golden struct {
	name    string
	pod     object
	want    object // nil if it is refused
	code    int
	message string
}

func golds(t testing.TB, folder string) (all []golden) {
	t.Helper()
	files, err := filepath.Glob(folder + "/*.yaml")
	require.NoError(t, err)
	for _, file := range files {
		name := strings.TrimSuffix(file, ".yaml")
		if strings.HasSuffix(name, ".want") {
			continue
		}
		g := golden{name: filepath.Base(name), pod: read(t, file)}
		if refused, err := os.ReadFile(name + ".refused.txt"); err == nil {
			code, message, _ := strings.Cut(strings.TrimSpace(string(refused)), " ")
			_, err := fmt.Sscan(code, &g.code)
			require.NoError(t, err, name)
			g.message = message
		} else {
			g.want = read(t, name+".want.yaml")
		}
		all = append(all, g)
	}
	require.NotEmpty(t, all, folder)
	return all
}

// created returns the request that creates a pod in a namespace.
func created(namespace string, pod object) request {
	return post(collection("v1", "pods", namespace), pod)
}

// normal returns a pod without what the API server adds to each.
func normal(o object) object {
	for _, field := range []string{"name", "namespace", "uid", "creationTimestamp", "generation", "managedFields"} {
		if field != "name" || at(o, "metadata", "generateName") != nil {
			delete(in(o, "metadata"), field)
		}
	}
	delete(o, "status")
	spec := in(o, "spec")
	token := func(v any) bool {
		m, _ := v.(object)
		return strings.HasPrefix(text(m, "name"), "kube-api-access-")
	}
	without := func(o object, field string) {
		all := slices.DeleteFunc(items(o, field), token)
		if o[field] = all; len(all) == 0 {
			delete(o, field)
		}
	}
	without(spec, "volumes")
	for _, field := range []string{"containers", "initContainers"} {
		for _, c := range list(spec, field) {
			without(c, "volumeMounts")
		}
	}
	return o
}

// becomes returns what is made of a pod in a namespace, which must admit it.
func (c *cluster) becomes(t testing.TB, namespace string, pod object) object {
	t.Helper()
	a := c.try(t, admin, created(namespace, pod))
	require.True(t, a.ok(), a)
	require.Empty(t, a.warning)
	return normal(a.object)
}

// mutated brings a mode into force in a namespace that it makes. It waits until pods are changed, and until
// those that cannot be are refused.
func (c *cluster) mutated(t testing.TB, m mode, namespace string, labels object, set string) {
	t.Helper()
	c.tasks(t, namespace, labels)
	values := "taskNamespaces={" + namespace + "},policies.hosts=false,images.tag=1.2.3,mutation.mode=" + m.name
	if set != "" {
		values += "," + set
	}
	objects := render(t, c.version, "--set", values)
	for _, o := range objects {
		if isPolicy(o) {
			c.ensure(t, o)
		}
	}
	m.begin(t, c, objects)
	c.until(t, "a changed pod", func() string {
		hard := edited(read(t, "testdata/pods/command.yaml"), hardened)
		return fmt.Sprint(c.try(t, admin, created(namespace, hard)).object)
	}, "/inject/inject")
	if !strings.Contains(set, "policies.injected=false") {
		refused := created(namespace, edited(read(t, "testdata/pods/no-project.yaml"), hardened))
		c.until(t, "a refusal", func() string { return c.try(t, admin, refused).message }, "inject-injected")
	}
}

// inModes runs a test in each mode that the API server has, in a namespace of its own with these values.
func inModes(t *testing.T, name, set string, test func(t *testing.T, c *cluster, namespace string)) {
	c := get(t)
	for _, m := range modes {
		if m.has(c) {
			t.Run(m.name, func(t *testing.T) {
				namespace := name + "-" + m.name
				c.mutated(t, m, namespace, nil, set)
				test(t, c, namespace)
			})
		}
	}
}

// noImages tells whether a folder is for volumes of images, and the API server does not know those.
func noImages(t testing.TB, folder string) bool {
	return filepath.Base(folder) == "image" && get(t).Minor(t) < 33
}

// TestGoldens makes the golden pods. What becomes of one is what the same server makes of its want in a
// namespace without policies, so that the defaults of both are of one version.
func TestGoldens(t *testing.T) {
	for _, folder := range slices.Sorted(maps.Keys(goldens)) {
		if noImages(t, folder) {
			continue
		}
		t.Run(filepath.Base(folder), func(t *testing.T) {
			inModes(t, filepath.Base(folder), goldens[folder], func(t *testing.T, c *cluster, namespace string) {
				for _, g := range golds(t, folder) {
					if g.want == nil {
						a := c.try(t, admin, created(namespace, g.pod))
						require.Equal(t, g.code, a.code, "%s: %s", g.name, a)
						require.Regexp(t, `'inject-injected-[0-9a-f]{16}'.* denied request: `, a.message, g.name)
						_, words, _ := strings.Cut(a.message, "denied request: ")
						require.Equal(t, g.message, words, g.name)
						continue
					}
					want := c.becomes(t, "elsewhere", g.want)
					require.Equal(t, want, c.becomes(t, namespace, g.pod), g.name)
					require.Equal(t, want, c.becomes(t, namespace, g.want), "%s: a second pass", g.name)
				}
			})
		})
	}
}

// TestLeft has the pods that mutation cannot change: it leaves them as they are, and only inject-injected refuses.
func TestLeft(t *testing.T) {
	inModes(t, "left", "policies.injected=false", func(t *testing.T, c *cluster, namespace string) {
		for _, g := range golds(t, "testdata/pods") {
			if g.want == nil {
				want := c.becomes(t, "elsewhere", g.pod)
				require.Equal(t, want, c.becomes(t, namespace, g.pod), g.name)
			}
		}
		// A pod is changed before the API server looks whether it is valid, which must have the last word.
		for name, e := range map[string]edit{
			"no spec":                   func(o object) { delete(o, "spec") },
			"no containers":             func(o object) { delete(in(o, "spec"), "containers") },
			"no name":                   func(o object) { delete(list(o, "spec", "containers")[0], "name") },
			"no image":                  func(o object) { delete(list(o, "spec", "containers")[0], "image") },
			"a mount of none":           container([]any{object{"name": "none", "mountPath": "/x"}}, "volumeMounts"),
			"a mount nowhere":           container([]any{object{"name": "none"}}, "volumeMounts"),
			"a volume without a name":   set([]any{object{"emptyDir": object{}}}, "spec", "volumes"),
			"a variable without a name": container([]any{object{"value": "x"}}, "env"),
		} {
			a := c.try(t, admin, created(namespace, edited(read(t, "testdata/pods/entrypoint.yaml"), e)))
			require.Equal(t, http.StatusUnprocessableEntity, a.code, "%s: %s", name, a)
			require.Regexp(t, `^Pod "task" is invalid: `, a.message, name)
		}
	})
}

// TestUnchanged has pods that mutation would change in a namespace where it is missing. The refusal is one after
// which Flyte tries again.
func TestUnchanged(t *testing.T) {
	c := get(t)
	c.tasks(t, "unchanged", nil)
	for _, o := range render(t, c.version, "--set", "taskNamespaces={unchanged}") {
		if called(o) == "inject-injected" {
			c.ensure(t, o)
		}
	}
	r := created("unchanged", read(t, "testdata/pods/python.yaml"))
	c.until(t, "a refusal", func() string { return c.try(t, admin, r).message }, "inject-injected")
	n := 0
	for _, g := range golds(t, "testdata/pods") {
		a := c.try(t, admin, created("unchanged", g.pod))
		if g.want == nil {
			require.Equal(t, g.code, a.code, a)
			require.True(t, strings.HasSuffix(a.message, "denied request: "+g.message), a)
			continue
		}
		require.Equal(t, http.StatusForbidden, a.code, a)
		require.Contains(t, a.message, "try again")
		require.True(t, c.try(t, admin, created("unchanged", g.want)).ok(), g.name)
		n++
	}
	require.Greater(t, n, 30)
	plain := edited(read(t, "testdata/pods/python.yaml"), label("inject-flyte-secrets", "false"))
	require.True(t, c.try(t, admin, created("unchanged", plain)).ok())
}

// TestUnchangedBesideFlyte has a pod that Flyte's webhook has changed, in a namespace where mutation is missing. It
// has its secrets, so it is taken. A pod that could not be changed is refused all the same.
func TestUnchangedBesideFlyte(t *testing.T) {
	c := get(t)
	c.tasks(t, "beside", nil)
	for _, o := range render(t, c.version, "--set", "taskNamespaces={beside},mutation.coexist=true") {
		if called(o) == "inject-injected" {
			c.ensure(t, o)
		}
	}
	refused := created("beside", read(t, "testdata/pods/windows.yaml"))
	c.until(t, "a refusal", func() string { return c.try(t, admin, refused).message }, "inject-injected")
	for _, g := range golds(t, "testdata/pods/coexist") {
		a := c.try(t, admin, created("beside", g.pod))
		require.True(t, a.ok(), "%s: %s", g.name, a)
	}
}

// TestOverlap has the policies of several versions of the chart in force at the same time, as they are during an
// upgrade. A pod is changed by one of them, and refused by none.
func TestOverlap(t *testing.T) {
	c := get(t)
	if !c.mutating {
		return // without policies there is one server, or the other
	}
	c.tasks(t, "overlap", nil)
	for i, set := range []string{
		"images.tag=1.2.3", "images.tag=v2,mutation.outputs={/other},mutation.storage=guard",
		"images.registry=other.test:5000/x,images.inject.digest=sha256:" + sixtyFour,
		"images.inject.repository=mirror/platform/inject",
	} {
		// The policies are in force in both namespaces at the same time, and in this one it can be seen.
		alone := fmt.Sprintf("overlap-%d", i)
		c.tasks(t, alone, nil)
		for _, o := range render(t, c.version, "--set", "taskNamespaces={overlap,"+alone+"},"+set) {
			if called(o) == "inject-injected" || called(o) == "inject-mutation" {
				c.ensure(t, o)
			}
		}
		task := created(alone, read(t, "testdata/pods/command.yaml"))
		refused := created(alone, read(t, "testdata/pods/windows.yaml"))
		c.until(t, "a changed pod", func() string { return fmt.Sprint(c.try(t, admin, task).object) }, "/inject/inject")
		c.until(t, "a refusal", func() string { return c.try(t, admin, refused).message }, "inject-injected")
	}
	n := 0
	for _, g := range golds(t, "testdata/pods") {
		if g.want == nil {
			continue
		}
		a := c.try(t, admin, created("overlap", g.pod))
		require.True(t, a.ok(), "%s: %s", g.name, a)
		inits := slices.DeleteFunc(list(a.object, "spec", "initContainers"), func(o object) bool {
			return text(o, "name") != "inject"
		})
		require.Len(t, inits, 1, g.name)
		n++
	}
	require.Greater(t, n, 30)
}

// TestEntrypoints has texts of the annotation, each with the command that comes of it after "--", or nil if
// it is refused. Kubelet makes $ of each $$ of a command, so that the task gets the words of the annotation.
func TestEntrypoints(t *testing.T) {
	long := func(n int) string { return `["` + strings.Repeat("é", n-4) + `"]` }
	type texts map[string][]any
	table := texts{
		`[]`: {}, "\t[ \n]\r": {}, `["a"]`: {"a"}, `["a", "b" ,"c d"]`: {"a", "b", "c d"}, `["a",""]`: {"a", ""},
		`["[a]","{b}","c,d",": ]"]`: {"[a]", "{b}", "c,d", ": ]"}, `["é","世界"]`: {"é", "世界"},
		`["$(A)","{{b}}"]`: {"$$(A)", "{{b}}"}, `["$$","$","a$b $$(C)"]`: {"$$$$", "$$", "a$$b $$$$(C)"},
		long(4096): {strings.Repeat("é", 4092)},
		strings.ReplaceAll(long(4096), "é", "$"): {strings.Repeat("$", 2*4092)},
	}
	for _, bad := range []string{
		"", " ", "a", `"a"`, `[a]`, `['a']`, `["a"`, `"a"]`, `["a",]`, `[,"a"]`, `["a" "b"]`, `["a"],["b"]`, `["a"] x`,
		`[""]`, `["","a"]`, `["a\"b"]`, `["a\\b"]`, `["a\n"]`, "[\"a\nb\"]", "[\"a\tb\"]", `["a\u0041"]`, `[1]`, `["a",1]`,
		`[["a"]]`, `{"a":"b"}`, `null`, `[null]`, "\u00a0[]", "\v[]", long(4097),
	} {
		table[bad] = nil
	}
	inModes(t, "entrypoints", "", func(t *testing.T, c *cluster, namespace string) {
		for said, want := range table {
			p := edited(read(t, "testdata/pods/v1.yaml"), annotate("inject.flyte.org/entrypoint", said))
			a := c.try(t, admin, created(namespace, p))
			if want == nil {
				require.Equal(t, http.StatusUnprocessableEntity, a.code, "%q: %s", said, a)
				require.Contains(t, a.message, "is not a JSON list", "%q", said)
				continue
			}
			require.True(t, a.ok(), "%q: %s", said, a)
			command := items(list(a.object, "spec", "containers")[0], "command")
			require.Equal(t, want, command[slices.Index(command, any("--"))+1:], said)
		}
	})
}

// hardened gives a pod what Pod Security's restricted wants.
func hardened(o object) {
	set(object{
		"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": object{"type": "RuntimeDefault"},
	}, "spec", "securityContext")(o)
	delete(in(o, "spec"), "hostNetwork")
	for _, field := range []string{"containers", "initContainers"} {
		for _, c := range list(o, "spec", field) {
			c["securityContext"] = object{
				"allowPrivilegeEscalation": false, "capabilities": object{"drop": []any{"ALL"}},
			}
		}
	}
}

// TestPodSecurity has namespaces that enforce a level of Pod Security: what is admitted there without mutation is
// admitted with it. Hardened pods are admitted by all levels.
func TestPodSecurity(t *testing.T) {
	c := get(t)
	for _, level := range []string{"baseline", "restricted"} {
		enforced := object{"pod-security.kubernetes.io/enforce": level}
		c.tasks(t, "only-"+level, enforced)
		for folder, set := range goldens {
			if noImages(t, folder) {
				continue
			}
			for _, m := range modes {
				if !m.has(c) {
					continue
				}
				namespace := level + "-" + filepath.Base(folder) + "-" + m.name
				c.mutated(t, m, namespace, enforced, set)
				admitted := map[bool]int{}
				for _, g := range golds(t, folder) {
					if g.want == nil {
						continue
					}
					without := c.try(t, admin, created("only-"+level, g.pod))
					with := c.try(t, admin, created(namespace, g.pod))
					require.Equal(t, without.ok(), with.ok(), "%s %s: %s, and %s", namespace, g.name, without, with)
					admitted[with.ok()]++
					hard := edited(clone(t, g.pod), hardened)
					require.True(t, c.try(t, admin, created("only-"+level, hard)).ok(), g.name)
					with = c.try(t, admin, created(namespace, hard))
					require.True(t, with.ok(), "%s %s: %s", namespace, g.name, with)
				}
				if filepath.Base(folder) == "pods" {
					require.Greater(t, admitted[true], 1, level)
					require.NotZero(t, admitted[false], level)
				}
			}
		}
	}
}

// crowd gives a pod 1000 annotations that declare secrets, as many labels, and 40 containers with 40 volumes, all
// before what mutation appends.
func crowd(o object) {
	for i := range 1000 {
		annotate(fmt.Sprintf("flyte.secrets/s%d", i), "nnsxsoraejwxsx2lmv3secq")(o)
		label(fmt.Sprintf("example.org/label-%d", i), "x")(o)
	}
	spec := in(o, "spec")
	var volumes []any
	var containers []any
	for i := range 40 {
		name := fmt.Sprintf("c%d", i)
		volumes = append(volumes, object{"name": name, "emptyDir": object{}})
		containers = append(containers, object{
			"name": name, "image": "x:1",
			"volumeMounts": []any{object{"name": name, "mountPath": "/inject"}},
			"env":          []any{object{"name": "INJECT_STORE", "value": "x"}},
		})
	}
	spec["volumes"] = append(volumes, items(spec, "volumes")...)
	spec["containers"] = append(containers, items(spec, "containers")...)
}

// manyMounts gives the task's container 1000 mounts and variables.
func manyMounts(o object) {
	c := list(o, "spec", "containers")[0]
	var mounts, variables []any
	for i := range 1000 {
		path := fmt.Sprintf("/mnt/%d/%s", i, strings.Repeat("x", 100))
		mounts = append(mounts, object{"name": "many", "mountPath": path})
		variables = append(variables, object{"name": fmt.Sprintf("V%d", i), "value": "x"})
	}
	c["volumeMounts"] = append(mounts, items(c, "volumeMounts")...)
	c["env"] = append(variables, items(c, "env")...)
	spec := in(o, "spec")
	spec["volumes"] = append([]any{object{"name": "many", "emptyDir": object{}}}, items(spec, "volumes")...)
}

// TestMutationBudget has pods that are large in each way that an expression depends on.
func TestMutationBudget(t *testing.T) {
	inModes(t, "budget", "", func(t *testing.T, c *cluster, namespace string) {
		for name, large := range map[string]edit{
			"containers and annotations": crowd,
			"mounts and variables":       manyMounts,
			"a long annotation":          annotate("flyte.secrets/s0", strings.Repeat("x", 200<<10)),
		} {
			// An entrypoint as long as it may be, beside variables that are removed.
			said := annotate("inject.flyte.org/entrypoint", `["/opt/run.sh"`+strings.Repeat(`, "x"`, 816)+`]`)
			p := edited(read(t, "testdata/pods/variables.yaml"), large, said)
			want := edited(read(t, "testdata/pods/variables.want.yaml"), large, said)
			for _, k := range list(want, "spec", "containers") {
				if text(k, "name") == "task" {
					k["command"] = append(append(items(k, "command"), "/opt/run.sh"), slices.Repeat([]any{"x"}, 816)...)
				}
			}
			require.Equal(t, c.becomes(t, "elsewhere", want), c.becomes(t, namespace, p), name)
		}
		// The longest annotation that a pod may have is refused with the words for it, not those of a budget.
		said := annotate("inject.flyte.org/entrypoint", `["`+strings.Repeat("x", 255<<10)+`"]`)
		a := c.try(t, admin, created(namespace, edited(read(t, "testdata/pods/v1.yaml"), said)))
		require.Equal(t, http.StatusUnprocessableEntity, a.code, a)
		require.Contains(t, a.message, "is not a JSON list")
	})
}
