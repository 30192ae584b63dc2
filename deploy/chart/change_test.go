package chart_test

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Media types of patches.
const (
	jsonPatch  = "application/json-patch+json"
	mergePatch = "application/merge-patch+json"
	strategic  = "application/strategic-merge-patch+json"
	applied    = "application/apply-patch+yaml"
)

// path returns the path of an object in the namespace flyte, or of a subresource of it.
func (k kind) path(name string, sub ...string) string {
	return strings.Join(append([]string{collection(k.apiVersion, k.resource, "flyte"), name}, sub...), "/")
}

// post returns the request that creates an object in the namespace flyte.
func (k kind) post(o object) request { return post(collection(k.apiVersion, k.resource, "flyte"), o) }

// elsewhere is the request in a namespace without policies.
func (r request) elsewhere() request {
	r.path = strings.Replace(r.path, "/namespaces/flyte/", "/namespaces/elsewhere/", 1)
	return r
}

// patch returns the request that patches an object in the namespace flyte.
func (k kind) patch(name, media string, body any) request {
	return request{method: http.MethodPatch, path: k.path(name), media: media, body: body}
}

// apply returns the request that creates or changes an object by server-side apply.
func (k kind) apply(o object) request {
	r := k.patch(text(o, "metadata", "name"), applied, o)
	r.path += "?fieldManager=test&force=true"
	return r
}

// A change sets or removes (nil) one field of a live object. The elements "main" and "first" of its path are
// the containers of these names in a list.
type change struct {
	value any
	path  []string
}

func isContainer(element string) bool { return element == "main" || element == "first" }

func to(value any, path ...string) change { return change{value, path} }

func relabel(key string, value any) change { return change{value, []string{"metadata", "labels", key}} }

func note(key string, value any) change {
	return change{value, []string{"metadata", "annotations", key}}
}

// Changes that tests share.
var (
	newImage  = to("x:2", "spec", "containers", "main", "image")
	initImage = to("x:2", "spec", "initContainers", "first", "image")
	finalizer = to(finalizers, "metadata", "finalizers")
	debug     = to([]any{object{"name": "debug", "image": "x:1"}}, "spec", "ephemeralContainers")
)

// of returns the change in the template of objects of a kind.
func (c change) of(k kind) change {
	return change{c.value, append(slices.Clone(k.template), c.path...)}
}

// position returns the place of the container with a name in a list of live ones. Mutation may have put
// another one before it. It is 0 if none has the name, as in objects of operators.
func position(containers []object, name string) int {
	return max(slices.IndexFunc(containers, func(o object) bool { return o["name"] == name }), 0)
}

// body returns the change as a patch. In place of a list it has the list of live with one element changed, if
// live is not nil; otherwise an element that has its name and what is changed.
func (c change) body(live object) object {
	root := object{}
	here := root
	for i, key := range c.path {
		if i == len(c.path)-1 {
			here[key] = c.value
			break
		}
		if next := c.path[i+1]; isContainer(next) {
			all, changed := []any{object{"name": next}}, 0
			if containers := list(live, c.path[:i+1]...); containers != nil {
				all, changed = items(in(live, c.path[:i]...), key), position(containers, next)
			}
			element, _ := all[changed].(object)
			maps.Copy(element, change{c.value, c.path[i+2:]}.body(element))
			here[key] = all
			break
		}
		here = in(here, key)
	}
	return root
}

// pointer returns the path in live as a JSON pointer.
func (c change) pointer(live object) (pointer string) {
	for i, key := range c.path {
		if isContainer(key) {
			key = strconv.Itoa(position(list(live, c.path[:i]...), key))
		}
		pointer += "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
	}
	return pointer
}

// apply makes the change in an object.
func (c change) apply(o object) {
	for i, key := range c.path {
		switch {
		case isContainer(key):
			containers := list(o, c.path[:i]...)
			change{c.value, c.path[i+1:]}.apply(containers[position(containers, key)])
			return
		case i == len(c.path)-1 && c.value == nil:
			delete(in(o, c.path[:i]...), key)
		case i == len(c.path)-1:
			in(o, c.path[:i]...)[key] = c.value
		}
	}
}

// overlay puts all of patch into o.
func overlay(o, patch object) {
	for key, value := range patch {
		next, isMap := value.(object)
		if have, ok := o[key].(object); ok && isMap {
			overlay(have, next)
			continue
		}
		o[key] = value
	}
}

// ways returns the requests that make these changes to a live object of the namespace flyte or to a
// subresource of it, by the name of the way.
func (c *cluster) ways(t testing.TB, k kind, name, sub string, changes ...change) map[string]request {
	t.Helper()
	live := c.do(t, admin, fetch(k.path(name)))
	put, merge, keyed := clone(t, live), object{}, k.empty(name)
	keyed["metadata"] = object{"name": name}
	var ops []object
	removes := false
	for _, ch := range changes {
		ch.apply(put)
		op := object{"op": "add", "path": ch.pointer(live), "value": ch.value}
		if ch.value == nil {
			removes, op = true, object{"op": "remove", "path": ch.pointer(live)}
		}
		ops = append(ops, op)
		overlay(merge, ch.body(clone(t, live)))
		overlay(keyed, ch.body(nil))
	}
	all := map[string]request{
		"put":   {method: http.MethodPut, path: k.path(name), body: put},
		"json":  k.patch(name, jsonPatch, ops),
		"merge": k.patch(name, mergePatch, merge),
	}
	if !k.custom() {
		all["strategic"] = k.patch(name, strategic, keyed)
	}
	if !removes {
		all["apply"] = k.apply(keyed)
	}
	for way, r := range all {
		if sub != "" {
			r.path = strings.Replace(r.path, k.path(name), k.path(name, sub), 1)
		}
		all[way] = r
	}
	return all
}
