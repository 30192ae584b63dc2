package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
)

// A Config says what the pods of tasks get. It is not changed after [Parse], so it is safe for concurrent
// use.
type Config struct {
	Image      string // that has the program
	PullPolicy string // Always, IfNotPresent or Never
	Delivery   string // DeliverInit or DeliverImage
	// Command is the program, its verb and the flags that are the same in each pod. Those that depend on the
	// pod come after them.
	Command []string
	// Outputs are folders that inject checks where the task's container has a mount.
	Outputs []string
	// Files says that the folder of secrets that are files gets a volume. Not where Flyte's own webhook
	// mounts one there.
	Files       bool
	PullSecret  string // the name of a Secret for image pulls that is added; "" for none
	DenyPython  bool   // a runtime of Flyte does not say that the image has no entrypoint
	DenyRaw     bool   // nor does an absolute path as the first argument
	Entrypoints []Entrypoint
	// Resources are those of the container that copies the program: requests and limits, each a
	// quantity of Kubernetes by the name of the resource.
	Resources      map[string]map[string]string
	TaskNamespaces []string

	imageName       string            // the last part of Image, without its tag and its digest
	volumes, mounts []json.RawMessage // that each pod, or its task's container, gets
}

// How the program gets into a pod.
const (
	DeliverInit  = "init"  // a container copies it to a volume
	DeliverImage = "image" // the image is a volume
)

// An Entrypoint is that of all images whose names begin with Image.
type Entrypoint struct {
	Image   string
	Command []string
}

// Parse reads a file that the chart writes: the ConfigMap inject-mutation. The error wraps
// [secret.ErrInvalid] and names the line and the field of every mistake.
func Parse(text []byte) (*Config, error) {
	root, err := strictyaml.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w configuration: %w", secret.ErrInvalid, err)
	}
	c := &Config{}
	c.file(root)
	if err := root.Err(); err != nil {
		return nil, fmt.Errorf("%w configuration:\n%w", secret.ErrInvalid, err)
	}
	c.prepare()
	return c, nil
}

func (c *Config) file(n strictyaml.Node) {
	got, ok := n.Needed([]string{
		"version", "image", "pullPolicy", "delivery", "command", "outputs", "files", "pullSecret", "pythonEntrypoint",
		"rawEntrypoint", "entrypoints", "resources", "taskNamespaces",
	})
	if !ok {
		return
	}
	read := func(name string, with func(strictyaml.Node)) {
		if value, given := got[name]; given {
			with(value)
		}
	}
	read("version", strictyaml.Node.Version)
	read("image", func(n strictyaml.Node) { c.Image = someText(n) })
	read("pullPolicy", func(n strictyaml.Node) { c.PullPolicy = oneOf(n, "Always", "IfNotPresent", "Never") })
	read("delivery", func(n strictyaml.Node) { c.Delivery = oneOf(n, DeliverInit, DeliverImage) })
	read("command", func(n strictyaml.Node) {
		if c.Command = someTexts(n); len(c.Command) == 1 {
			n.Fail("it is a program and its verb at least")
		}
	})
	read("outputs", func(n strictyaml.Node) { c.Outputs = textsOf(n) })
	read("files", func(n strictyaml.Node) { c.Files = boolean(n) })
	read("pullSecret", func(n strictyaml.Node) { c.PullSecret, _ = n.Text() })
	read("pythonEntrypoint", func(n strictyaml.Node) { c.DenyPython = oneOf(n, "none", "deny") == "deny" })
	read("rawEntrypoint", func(n strictyaml.Node) { c.DenyRaw = oneOf(n, "none", "deny") == "deny" })
	read("entrypoints", func(n strictyaml.Node) {
		list, _ := n.List()
		for _, item := range list {
			c.Entrypoints = append(c.Entrypoints, entry(item))
		}
	})
	read("resources", func(n strictyaml.Node) { c.Resources = resources(n) })
	read("taskNamespaces", func(n strictyaml.Node) { c.TaskNamespaces = someTexts(n) })
}

func entry(n strictyaml.Node) (e Entrypoint) {
	got, ok := n.Needed([]string{"image", "command"})
	if !ok {
		return e
	}
	if image, given := got["image"]; given {
		e.Image = someText(image)
	}
	// The list may be empty: the image has no entrypoint.
	if command, given := got["command"]; given {
		e.Command = textsOf(command)
	}
	return e
}

func resources(n strictyaml.Node) map[string]map[string]string {
	all := map[string]map[string]string{}
	got, _ := n.Known("requests", "limits")
	for kind, value := range got {
		quantities, _ := value.Fields()
		for _, f := range quantities {
			if all[kind] == nil {
				all[kind] = map[string]string{}
			}
			all[kind][f.Name] = someText(f.Value)
		}
	}
	return all
}

// someText returns a text that must not be empty.
func someText(n strictyaml.Node) string {
	text, ok := n.Text()
	if ok && text == "" {
		n.Fail("empty")
	}
	return text
}

func textsOf(n strictyaml.Node) (all []string) {
	list, _ := n.List()
	for _, item := range list {
		if text, ok := item.Text(); ok {
			all = append(all, text)
		}
	}
	return all
}

// someTexts returns a list of texts that must not be empty.
func someTexts(n strictyaml.Node) []string {
	all := textsOf(n)
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		n.Fail("empty")
	}
	return all
}

func oneOf(n strictyaml.Node, choices ...string) string {
	text, ok := n.Text()
	if ok && !slices.Contains(choices, text) {
		n.Fail("it is %s", strings.Join(choices, " or "))
	}
	return text
}

func boolean(n strictyaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Value != "true" && n.Value != "false" {
		n.Fail("it is true or false")
	}
	return n.Value == "true"
}

// version is what follows the name of an image.
var version = regexp.MustCompile(`(@sha256:[0-9a-f]+|:[^:/]*)$`)

// prepare encodes what all pods get alike.
func (c *Config) prepare() {
	type tree = map[string]any
	volume := func(name, kind string, what tree) {
		c.volumes = append(c.volumes, encode(tree{"name": name, kind: what}))
	}
	mount := func(name, path string, more tree) {
		m := tree{"name": name, "mountPath": path}
		maps.Copy(m, more)
		c.mounts = append(c.mounts, encode(m))
	}
	readOnly := tree{"readOnly": true}
	name := version.ReplaceAllString(c.Image, "")
	c.imageName = name[strings.LastIndexByte(name, '/')+1:]
	field := func(name string) tree {
		return tree{"path": name, "fieldRef": tree{"fieldPath": "metadata." + name}}
	}

	if c.Delivery == DeliverImage {
		volume(program, "image", tree{"reference": c.Image, "pullPolicy": c.PullPolicy})
	} else {
		// Not in memory, which would count to the limit of the container that copies.
		volume(program, "emptyDir", tree{"sizeLimit": "64Mi"})
	}
	ca := tree{"name": "inject-ca", "optional": true, "items": []tree{{"key": "ca.crt", "path": "ca.crt"}}}
	volume(podVolume, "projected", tree{"defaultMode": 0o444, "sources": []tree{
		{"serviceAccountToken": tree{"path": "token", "audience": "inject", "expirationSeconds": 600}},
		{"downwardAPI": tree{"items": []tree{field("labels"), field("annotations")}}},
		// Without it inject says at once that it knows no authority. A pod that waits for a volume says nothing.
		{"configMap": ca},
	}})
	mount(program, programMount, readOnly)
	mount(podVolume, podMount, readOnly)
	if c.Files {
		volume(fileStore, "emptyDir", tree{"medium": "Memory"})
		mount(fileStore, filesMount, nil)
	}
}

// initContainer returns the container that copies the program into its volume, nil if the image is the
// volume. It has what Pod Security's restricted asks for, since the pod may be one that passes.
func (c *Config) initContainer(p *pod) (one json.RawMessage, ok bool) {
	if c.Delivery == DeliverImage {
		return nil, true
	}
	security, ok := fields(p.spec["securityContext"])
	if !ok {
		return nil, false
	}
	user := json.RawMessage("65532") // of the image
	// As the pod's other containers: where a namespace has users of its own, no other is admitted.
	if of := security["runAsUser"]; !absent(of) && string(of) != "0" {
		user = of
	}
	type tree = map[string]any
	return encode(tree{
		"name": program, "image": c.Image, "imagePullPolicy": c.PullPolicy,
		"args":         []string{"init", "--copy-to", copyMount},
		"volumeMounts": []tree{{"name": program, "mountPath": copyMount}},
		"resources":    c.Resources,
		"securityContext": tree{
			"runAsNonRoot": true, "runAsUser": user, "allowPrivilegeEscalation": false,
			"readOnlyRootFilesystem": true, "capabilities": tree{"drop": []string{"ALL"}},
			"seccompProfile": tree{"type": "RuntimeDefault"},
		},
	}), true
}
