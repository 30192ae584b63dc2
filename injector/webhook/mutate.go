// Package webhook changes the pods of Flyte's tasks so that their commands run under inject, for API
// servers of Kubernetes before 1.36. From 1.36 on a policy in the API server itself makes the same change:
// deploy/chart/templates/mutation.
//
// [Mutate] and [Inherit] are pure: from a pod as JSON they compute what to change in it. [Handler] answers
// the API server's reviews with that. A pod that they cannot change they leave as it is, and the admission
// policy inject-injected refuses it, with the words for the task's author.
package webhook

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An Operation is one of a JSON Patch (RFC 6902). A list of them is applied in order. What they do not name
// stays byte for byte: fields that this version of inject does not know, too.
type Operation struct {
	Op    string          `json:"op"` // add or remove
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value,omitempty"`
}

// An Outcome says what becomes of a pod.
type Outcome string

// What becomes of a pod.
const (
	Changed Outcome = "changed"
	Already Outcome = "already" // it has our change
	Other   Outcome = "other"   // it is not for this webhook
	Left    Outcome = "left"    // it cannot be changed, so inject-injected refuses it
)

// A Reason says why a pod was left. It is a fixed text, so that no part of a pod reaches a log or a metric.
type Reason string

// Why a pod was left.
const (
	Malformed    Reason = "a field has another type than Kubernetes gives it"
	Unnamed      Reason = "no container is named as the task's, and there are several"
	Absent       Reason = "the container that is named as the task's is not there"
	Unlabelled   Reason = "the label project or domain is missing"
	Windows      Reason = "it runs on Windows"
	HostNetwork  Reason = "hostNetwork without the dnsPolicy that resolves the cluster's names"
	Taken        Reason = "it has a name or a mount of inject's, and not all of inject's change"
	Annotation   Reason = "the annotation of its entrypoint is not a list of texts"
	NoEntrypoint Reason = "it has no command, and the entrypoint of its image is not known"
	Large        Reason = "it has more fields and items than are read"
)

// A Result says what to change in a pod.
type Result struct {
	Operations []Operation // none unless Outcome is Changed
	Outcome    Outcome
	Reason     Reason // if Outcome is Left
}

func left(why Reason) Result { return Result{Outcome: Left, Reason: why} }

// The names and paths of inject's change. The admission policies of the chart have them, too.
const (
	program   = "inject"       // the volume with the program, and the container that copies it there
	podVolume = "inject-pod"   // the volume with what inject knows of its pod
	fileStore = "inject-files" // the volume of secrets that are files

	programMount = "/inject"
	podMount     = "/run/inject"
	filesMount   = "/etc/flyte/secrets"

	copyMount = "/copy" // of the volume with the program, in the container that copies

	// The task's container in a PodTemplate of Flyte's SDK, unless its author says another name.
	sdkContainer = "primary"

	inheritsAnnotation   = "inject.flyte.org/inherits"
	entrypointAnnotation = "inject.flyte.org/entrypoint"
)

// Mutate returns what to change in a pod, which is JSON as the API server sends it. It changes only the
// container of the task. The result for a pod that has been changed has no operation. pod is not changed.
func Mutate(c *Config, pod []byte) Result {
	p, ok := read(pod)
	if !ok {
		return left(Malformed)
	}
	at, why := p.primary()
	if why != "" {
		return left(why)
	}
	one, ok := container(p.containers[at])
	if !ok {
		return left(Malformed)
	}
	if p.changed(c, one) {
		return Result{Outcome: Already}
	}
	if why := p.obstacle(); why != "" {
		return left(why)
	}
	if p.taken(c, one) {
		return left(Taken)
	}
	command, why := c.command(p, one)
	if why != "" {
		return left(why)
	}
	grace, ok := p.grace()
	if !ok {
		return left(Malformed)
	}
	first, ok := c.initContainer(p)
	if !ok {
		return left(Malformed)
	}

	e := &edit{}
	c.addProgram(e, p, first)
	path := "/spec/containers/" + strconv.Itoa(at)
	for _, m := range c.mounts {
		e.add(path+"/volumeMounts", one.fields["volumeMounts"], m)
	}
	e.removeOurs(path+"/env", one.env)
	words := slices.Concat(c.Command, c.outputs(one), []string{
		"--termination-log", one.message(), "--grace", strconv.FormatInt(grace, 10) + "s", "--",
	})
	e.all = append(e.all, Operation{"add", path + "/command", encode(append(encodeAll(words), command...))})
	return Result{Operations: e.all, Outcome: Changed}
}

// addProgram adds what brings the program into a pod: the volumes, the container that copies it, nil for none, and
// the Secret with which nodes pull images.
func (c *Config) addProgram(e *edit, p *pod, copies json.RawMessage) {
	for _, v := range c.volumes {
		e.add("/spec/volumes", p.spec["volumes"], v)
	}
	if copies != nil {
		e.insert("/spec/initContainers", p.spec["initContainers"], copies)
	}
	if c.PullSecret != "" && !slices.ContainsFunc(p.pullSecrets, named(c.PullSecret)) {
		e.add("/spec/imagePullSecrets", p.spec["imagePullSecrets"], encode(map[string]string{"name": c.PullSecret}))
	}
}

// Inherit returns what to change in a pod so that it says by whose token it was made: the annotation
// inject.flyte.org/inherits has maker, NAME/UID of a pod. injectd gives it what its maker may have. Whether
// the maker may claim the pod's scope itself, and so needs no annotation, the API server has decided before.
func Inherit(pod []byte, maker string) Result {
	p, ok := read(pod)
	if !ok {
		return left(Malformed)
	}
	if now, ok := text(p.annotations[inheritsAnnotation]); ok && now == maker {
		return Result{Outcome: Already}
	}
	at := "/metadata/annotations"
	switch {
	case p.annotations != nil:
		return done(Operation{"add", at + "/" + strings.ReplaceAll(inheritsAnnotation, "/", "~1"), encode(maker)})
	case p.metadata != nil:
		return done(Operation{"add", at, encode(map[string]string{inheritsAnnotation: maker})})
	default:
		return left(Malformed)
	}
}

func done(o Operation) Result { return Result{Operations: []Operation{o}, Outcome: Changed} }

// An edit collects operations.
type edit struct {
	all  []Operation
	made map[string]bool // lists that earlier operations have made
}

// add appends value to the list at path, which is now; it is made if it is absent.
func (e *edit) add(path string, now, value json.RawMessage) { e.put(path, "/-", now, value) }

// insert makes value the first of the list at path.
func (e *edit) insert(path string, now, value json.RawMessage) { e.put(path, "/0", now, value) }

func (e *edit) put(path, place string, now, value json.RawMessage) {
	if absent(now) && !e.made[path] {
		if e.made == nil {
			e.made = map[string]bool{}
		}
		e.made[path] = true
		e.all = append(e.all, Operation{"add", path, encode([]json.RawMessage{value})})
		return
	}
	e.all = append(e.all, Operation{"add", path + place, value})
}

// removeOurs removes the variables in the list at path that would change what inject does, and the list itself
// if nothing else is in it.
func (e *edit) removeOurs(path string, env []object) {
	ours := func(v object) bool {
		name, _ := text(v["name"])
		return strings.HasPrefix(name, "INJECT_")
	}
	if len(env) > 0 && !slices.ContainsFunc(env, func(v object) bool { return !ours(v) }) {
		e.all = append(e.all, Operation{Op: "remove", Path: path})
		return
	}
	for i, v := range slices.Backward(env) { // so that the indices before stay
		if ours(v) {
			e.all = append(e.all, Operation{Op: "remove", Path: path + "/" + strconv.Itoa(i)})
		}
	}
}

// primary returns the index of the task's container, by the rules of Flyte (GetPrimaryContainerName in
// flyteplugins/go/tasks/pluginmachinery/flytek8s/pod_helper.go at v2.0.43), but that of several containers
// one must be named or be called primary: Flyte takes the first, and writes no annotation into such a pod.
func (p *pod) primary() (at int, why Reason) {
	index := func(name string) int {
		return slices.IndexFunc(p.containers, named(name))
	}
	for _, key := range []string{"kubectl.kubernetes.io/default-container", "primary_container_name"} {
		name, _ := text(p.annotations[key])
		if name == "" {
			continue
		}
		if at := index(name); at >= 0 {
			return at, ""
		}
		return 0, Absent
	}
	if name, ok := text(p.metadata["name"]); ok && index(name) >= 0 {
		return index(name), ""
	}
	switch len(p.containers) {
	case 0:
		return 0, Malformed
	case 1:
		return 0, ""
	}
	if at := index(sdkContainer); at >= 0 {
		return at, ""
	}
	return 0, Unnamed
}

// changed reports whether the pod runs inject already: it is a copy of a changed one, or this is a second
// pass. What a version of inject may change is not compared, because an upgrade must refuse no pod.
func (p *pod) changed(c *Config, one task) bool {
	for i, word := range c.Command[:2] {
		if has, _ := text(one.word(i)); has != word {
			return false
		}
	}
	for _, at := range [][2]string{{program, programMount}, {podVolume, podMount}} {
		if !slices.ContainsFunc(one.mounts, func(m object) bool {
			path, _ := text(m["mountPath"])
			return named(at[0])(m) && path == at[1] && string(m["readOnly"]) == "true"
		}) {
			return false
		}
	}
	return slices.ContainsFunc(p.volumes, func(v object) bool {
		return named(podVolume)(v) && !absent(v["projected"])
	}) && slices.ContainsFunc(p.volumes, func(v object) bool {
		if !named(program)(v) {
			return false
		}
		if absent(v["emptyDir"]) {
			image, _ := fields(v["image"])
			return c.ours(image["reference"])
		}
		return slices.ContainsFunc(p.inits, func(o object) bool { return named(program)(o) && c.ours(o["image"]) })
	})
}

// ours reports whether a name of an image is that of inject, of any version and in any folder of any registry:
// an upgrade may change all of these.
func (c *Config) ours(image json.RawMessage) bool {
	name, ok := text(image)
	name = "/" + name
	return ok && (strings.Contains(name, "/"+c.imageName+":") || strings.Contains(name, "/"+c.imageName+"@"))
}

// taken reports whether the pod has something with a name of ours, or at a path of ours.
func (p *pod) taken(c *Config, one task) bool {
	for _, name := range []string{program, podVolume, fileStore} {
		if slices.ContainsFunc(p.volumes, named(name)) {
			return true
		}
	}
	return slices.ContainsFunc(p.containers, named(program)) || slices.ContainsFunc(p.inits, named(program)) ||
		slices.ContainsFunc(one.mounts, func(m object) bool {
			path, _ := text(m["mountPath"])
			return isOurs.MatchString(path) || c.Files && isFiles.MatchString(path)
		})
}

// The paths of our mounts, and those below, however many slashes they have.
var (
	isOurs  = regexp.MustCompile(`^/*(inject|run/+inject)(/.*)?$`)
	isFiles = regexp.MustCompile(`^/*etc/+flyte/+secrets(/.*)?$`)
)

// obstacle returns why inject cannot run in the pod, "" if it can.
func (p *pod) obstacle() Reason {
	for _, name := range []string{"project", "domain"} {
		if value, ok := text(p.labels[name]); !ok || value == "" {
			return Unlabelled
		}
	}
	system, ok := fields(p.spec["os"])
	selector, ok2 := fields(p.spec["nodeSelector"])
	if !ok || !ok2 {
		return Malformed
	}
	for _, value := range []json.RawMessage{system["name"], selector["kubernetes.io/os"]} {
		if name, _ := text(value); name == "windows" {
			return Windows
		}
	}
	if string(p.spec["hostNetwork"]) == "true" {
		if policy, _ := text(p.spec["dnsPolicy"]); policy != "ClusterFirstWithHostNet" {
			return HostNetwork
		}
	}
	return ""
}

// outputs returns the flags for the folders that inject checks when the task has ended: those at which the
// task's container has a mount.
func (c *Config) outputs(one task) (flags []string) {
	for _, dir := range c.Outputs {
		if slices.ContainsFunc(one.mounts, func(m object) bool {
			path, _ := text(m["mountPath"])
			return path == dir || path == dir+"/"
		}) {
			flags = append(flags, "--outputs", dir)
		}
	}
	return flags
}

// grace returns how many seconds the task gets after SIGTERM: 10 less than the pod, so that inject can
// still mask and upload what the task leaves; but half of the pod's if that is more, or if a native sidecar
// needs its time after that.
func (p *pod) grace() (seconds int64, ok bool) {
	period := int64(30) // of Kubernetes
	if value := p.spec["terminationGracePeriodSeconds"]; !absent(value) {
		var err error
		if period, err = strconv.ParseInt(string(value), 10, 64); err != nil {
			return 0, false
		}
	}
	grace := max(period-10, period/2)
	for _, one := range p.inits {
		if policy, _ := text(one["restartPolicy"]); policy == "Always" {
			grace = period / 2
		}
	}
	return max(grace, 1), true
}
