package chart_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// An object is an object of Kubernetes, or a part of one, as JSON has it.
type object = map[string]any

// at returns what is in o at a path, or nil.
func at(o object, path ...string) any {
	var v any = o
	for _, key := range path {
		m, _ := v.(object)
		v = m[key]
	}
	return v
}

// text returns the string in o at a path, or "".
func text(o object, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

// list returns the objects of the list in o at a path.
func list(o object, path ...string) (all []object) {
	values, _ := at(o, path...).([]any)
	for _, v := range values {
		m, _ := v.(object)
		all = append(all, m)
	}
	return all
}

// items returns the list in o under a key, or nil.
func items(o object, key string) []any {
	all, _ := o[key].([]any)
	return all
}

// in returns the map in o at a path. It makes those that are missing.
func in(o object, path ...string) object {
	for _, key := range path {
		next, _ := o[key].(object)
		if next == nil {
			next = object{}
			o[key] = next
		}
		o = next
	}
	return o
}

// read returns the object of a YAML file, relative to this folder.
func read(t testing.TB, file string) (o object) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &o))
	return clone(t, o)
}

// clone returns a deep copy, with the types of JSON.
func clone(t testing.TB, o object) (c object) {
	t.Helper()
	data, err := json.Marshal(o)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &c))
	return c
}

// An edit changes a pod, or a template of pods.
type edit func(object)

func edited(o object, edits ...edit) object {
	for _, e := range edits {
		e(o)
	}
	return o
}

func set(value any, path ...string) edit {
	return func(o object) { in(o, path[:len(path)-1]...)[path[len(path)-1]] = value }
}

func label(key, value string) edit { return set(value, "metadata", "labels", key) }

func annotate(key, value string) edit { return set(value, "metadata", "annotations", key) }

func runsAs(account string) edit { return set(account, "spec", "serviceAccountName") }

// scoped makes a pod one of a task with a secret, as Flyte does, of the project fraud in a domain.
func scoped(domain string) edit {
	return func(o object) {
		edited(o, label("organization", "flyte"), label("project", "fraud"), label("domain", domain),
			label("inject-flyte-secrets", "true"), annotate("flyte.secrets/s0", "nnsxsoraejwxsx2lmv3secq"))
	}
}

// mine is the scope that the member may claim, theirs one that only claimers of all may.
var mine, theirs = scoped("development"), scoped("production")

// stamp says by whose token a pod was made.
func stamp(maker string) edit { return annotate("inject.flyte.org/inherits", maker) }

func volume(v object) edit {
	return func(o object) {
		spec := in(o, "spec")
		volumes, _ := spec["volumes"].([]any)
		v["name"] = fmt.Sprintf("v%d", len(volumes))
		spec["volumes"] = append(volumes, v)
	}
}

// container changes a pod's first container.
func container(value any, path ...string) edit {
	return func(o object) { set(value, path...)(list(o, "spec", "containers")[0]) }
}

// reference refers to an object, which need not exist, as a controller's.
func reference(apiVersion string) object {
	return object{"apiVersion": apiVersion, "kind": "TaskAction", "name": "x-a0", "uid": "5", "controller": true}
}

func ownedBy(apiVersion string) edit {
	return set([]any{reference(apiVersion)}, "metadata", "ownerReferences")
}

// owner makes a TaskAction the owner of an object.
var owner = ownedBy("flyte.org/v1")

// finalizers hold an object that is deleted.
var finalizers = []any{"example.org/x"}

// md5 is such a name as Flyte's SecretService gives its Secrets.
const md5 = "19847a51bc1f18bf0352beee097e801c"

// pod returns a pod that no policy is concerned with.
func pod(name string, edits ...edit) object {
	return edited(object{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"name": name, "labels": object{"app": "x"}, "annotations": object{"note": "x"}},
		"spec": object{
			"restartPolicy":  "Always",
			"initContainers": []any{object{"name": "first", "image": "x:1"}},
			"containers": []any{object{
				"name": "main", "image": "x:1", "command": []any{"x"},
				"resources": object{"requests": object{"cpu": "10m"}},
			}},
		},
	}, edits...)
}

// A kind is one of Kubernetes, or of a definition.
type kind struct {
	apiVersion, kind, resource string
	template                   []string // where its pods' metadata and spec are
	fields                     object   // what else its spec must have
	scale                      bool     // it has spec.replicas and a scale
}

// custom tells whether objects of the kind are by a definition.
func (k kind) custom() bool { return strings.Contains(k.apiVersion, ".") }

// object returns an object of this kind whose pods are edited.
func (k kind) object(name string, edits ...edit) object {
	p := pod(name, edits...)
	if len(k.template) == 0 {
		return p
	}
	o := k.empty(name)
	if k.template[0] == "spec" {
		maps.Copy(in(o, "spec"), k.fields)
	}
	metadata, spec := in(p, "metadata"), in(p, "spec")
	if owners, ok := metadata["ownerReferences"]; ok {
		in(o, "metadata")["ownerReferences"] = owners
	}
	delete(metadata, "name")
	delete(metadata, "ownerReferences")
	if k.apiVersion == "batch/v1" {
		spec["restartPolicy"] = "Never"
	}
	maps.Copy(in(o, k.template...), object{"metadata": metadata, "spec": spec})
	return o
}

// empty returns an object without a spec.
func (k kind) empty(name string) object {
	return object{
		"apiVersion": k.apiVersion, "kind": k.kind,
		"metadata": object{"name": name, "labels": object{"own": "x"}, "annotations": object{"note": "x"}},
	}
}

// with returns an object of this kind with a spec, which may be anything.
func (k kind) with(name string, spec any) object { return edited(k.empty(name), set(spec, "spec")) }
