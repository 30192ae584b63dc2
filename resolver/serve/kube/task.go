package kube

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/internal/annotation"
	"inject/resolver/idl/flyteidl2/core"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/kube/evidence"
)

const (
	// inheritsAnnotation is on a pod that a task's pod has made: NAME/UID of its maker.
	inheritsAnnotation = "inject.flyte.org/inherits"
	// declares begins each annotation that declares a secret. What follows is Flyte's number.
	declares = "flyte.secrets/"
	// maxInherits is over how many pods secrets are inherited: a driver, its executors, and theirs.
	maxInherits = 3
	// maxOwners is how many owners of a pod are read. A worker of Dask has the most of Flyte's pods: its
	// ReplicaSet, Deployment, worker group, cluster, job, and the TaskAction.
	maxOwners = 6
)

// A task is what a pod may have.
type task struct {
	project, domain string
	declared        []string // keys, sorted
	from            []object // what it was taken from
	parents         []string // the pods whose secrets it inherits, the nearest first
}

// declare sets the declared keys, each once.
func (t *task) declare(keys []string) {
	slices.Sort(keys)
	t.declared = slices.Compact(keys)
}

const odd = "what it is made of does not fit together: ask the server's operator, whose log says why"

// taskOf returns what a pod may have. depth is over how many pods it is inherited so far.
func (a *Authenticator) taskOf(ctx context.Context, config *evidence.Config, p *pod, depth int) (*task, error) {
	if p.inherits != "" {
		return a.inherited(ctx, config, p, depth)
	}
	root, action, parent, err := a.climb(ctx, p)
	if err != nil {
		return nil, err
	}
	if action == nil {
		return p.claimed(config, root)
	}
	t, err := taskOfAction(action)
	if err != nil {
		return nil, err
	}
	t.from = []object{p.object, objectOf("TaskAction", &action.ObjectMeta)}
	if parent != nil && (parent.Spec.Project != t.project || parent.Spec.Domain != t.domain) {
		return nil, advise(ReasonParentScope, "no task starts one in another project or domain and gives it secrets",
			"the TaskAction that started its TaskAction has another scope")
	}
	if !p.says(config, t.project, t.domain) {
		return nil, advise(ReasonLabels, odd, "its labels do not say the scope of its TaskAction")
	}
	keys, err := p.declared()
	if err != nil {
		return nil, err
	}
	if extra := without(keys, t.declared); extra != nil {
		return nil, advise(ReasonDeclared, "its annotations declare secrets that its task does not declare",
			"its annotations declare %d secrets that its TaskAction does not", len(extra))
	}
	return t, nil
}

// taskOfAction returns the scope and the declared list of a TaskAction.
func taskOfAction(action *kubeapi.TaskAction) (*task, error) {
	template := &core.TaskTemplate{}
	if proto.Unmarshal(action.Spec.TaskTemplate, template) != nil {
		return nil, advise(ReasonTask, odd, "the task template of its TaskAction cannot be read")
	}
	t := &task{project: action.Spec.Project, domain: action.Spec.Domain}
	if t.project == "" || t.domain == "" {
		return nil, advise(ReasonTask, odd, "its TaskAction has no project or no domain")
	}
	var keys []string
	for _, s := range template.GetSecurityContext().GetSecrets() {
		keys = append(keys, s.GetKey())
	}
	t.declare(keys)
	return t, nil
}

// claimed returns what a pod says itself, which its maker was allowed to claim. root is its last owner,
// or nil: a pod is made of that one's template.
func (p *pod) claimed(config *evidence.Config, root *object) (*task, error) {
	t := &task{project: p.labels["project"], domain: p.labels["domain"], from: []object{p.object}}
	if root != nil {
		t.from = append(t.from, *root)
	}
	if t.project == "" || t.domain == "" {
		return nil, advise(ReasonUnclaimed, "it needs the labels project and domain, of a user who may claim them",
			"no TaskAction owns it, and its labels do not say a project and a domain")
	}
	if !p.says(config, t.project, t.domain) {
		return nil, advise(ReasonLabels, odd, "it has the label of another organization")
	}
	keys, err := p.declared()
	if err != nil {
		return nil, err
	}
	t.declare(keys)
	return t, nil
}

// inherited returns what a pod may have that a task's pod has made.
func (a *Authenticator) inherited(ctx context.Context, config *evidence.Config, p *pod, depth int) (*task, error) {
	if depth == maxInherits {
		return nil, advise(ReasonDepth, "secrets are not inherited over more than 3 pods",
			"it inherits over more than %d pods", maxInherits)
	}
	name, uid, ok := strings.Cut(p.inherits, "/")
	if !ok || name == "" || uid == "" {
		return nil, advise(ReasonParent, odd, "its annotation %s is not NAME/UID", inheritsAnnotation)
	}
	const gone = "the pod that made it has ended, so it gets no secrets"
	live, err := kubeapi.Pods.Get(ctx, a.o.Objects, p.namespace, name)
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return nil, advise(ReasonParent, gone, "the pod that made it is gone")
	case err != nil:
		return nil, unavailable(err)
	}
	parent := newPod(live)
	switch {
	case parent.uid != uid:
		return nil, advise(ReasonParent, gone, "the pod that made it is gone, and another one has its name")
	case parent.ended != "":
		return nil, advise(ReasonParent, gone, "the pod that made it %s", parent.ended)
	}
	of, err := a.taskOf(ctx, config, parent, depth+1)
	if err != nil {
		return nil, err
	}
	if !p.says(config, of.project, of.domain) {
		return nil, advise(ReasonParentScope, "a pod that a task's pod makes has the task's labels project and domain",
			"its labels do not say the scope of the pod that made it")
	}
	keys, err := p.declared()
	if err != nil {
		return nil, err
	}
	if extra := without(keys, of.declared); extra != nil {
		return nil, advise(ReasonParentScope, "a pod that a task's pod makes declares no more than the task",
			"it declares %d secrets that the pod that made it does not", len(extra))
	}
	t := &task{
		project: of.project, domain: of.domain, from: append(of.from, p.object),
		parents: append([]string{p.inherits}, of.parents...),
	}
	t.declare(keys)
	return t, nil
}

// says reports whether the labels of a pod say a scope, and no other organization.
func (p *pod) says(config *evidence.Config, project, domain string) bool {
	organization, has := p.labels["organization"]
	return p.labels["project"] == project && p.labels["domain"] == domain &&
		(!has || organization == config.Organization)
}

// declared returns the keys that the annotations of a pod declare.
func (p *pod) declared() ([]string, error) {
	var keys []string
	for name, text := range p.secrets {
		d, err := annotation.Decode(text)
		if err != nil || !strings.HasPrefix(name, annotation.Prefix) {
			return nil, advise(ReasonDeclared, "an annotation that declares a secret is not in Flyte's form",
				"one of %d annotations that declare secrets cannot be read", len(p.secrets))
		}
		keys = append(keys, d.Key)
	}
	return keys, nil
}

// without returns those of keys that sorted does not have.
func without(keys, sorted []string) (extra []string) {
	for _, key := range keys {
		if _, has := slices.BinarySearch(sorted, key); !has {
			extra = append(extra, key)
		}
	}
	return extra
}

// climb reads the owners of a pod up to a TaskAction, and the TaskAction's parent, if it has one. Without
// a TaskAction it returns the last owner, or nil if there is none.
func (a *Authenticator) climb(
	ctx context.Context, p *pod,
) (root *object, action, parent *kubeapi.TaskAction, err error) {
	at, owners := p.object, p.owners
	for n := 0; ; n++ {
		ref := ownerOf(owners)
		if ref == nil {
			return root, nil, nil, nil
		}
		if n == maxOwners {
			return nil, nil, nil, advise(ReasonOwner, odd, "it has more than %d owners, one above the other", maxOwners)
		}
		if isTaskAction(ref) {
			break
		}
		owner, err := kubeapi.Owner(ctx, a.o.Objects, p.namespace, ref)
		if err := theOwner(ref, err, func() string { return string(owner.UID) }); err != nil {
			return nil, nil, nil, err
		}
		o := objectOf("owner", &owner.ObjectMeta)
		root, at, owners = &o, o, owner.OwnerReferences
	}

	if action, err = a.taskAction(ctx, p.namespace, ownerOf(owners)); err != nil {
		return nil, nil, nil, err
	}
	if at == p.object && !isAttempt(p.name, action.Name) {
		return nil, nil, nil, advise(ReasonTask, odd, "it has not a name that Flyte gives the pods of its TaskAction")
	}
	if ref := ownerOf(action.OwnerReferences); ref != nil && isTaskAction(ref) {
		if parent, err = a.taskAction(ctx, p.namespace, ref); err != nil {
			return nil, nil, nil, err
		}
	}
	return root, action, parent, nil
}

// ownerOf returns the owner of which an object is made: a TaskAction, or else its controller. It returns
// nil if there is none. A TaskAction comes first, whether it is the controller or not: a controller may be
// made to adopt a pod that has none, and the pod would then get what its labels and annotations say.
func ownerOf(refs []metav1.OwnerReference) *metav1.OwnerReference {
	if i := slices.IndexFunc(refs, func(r metav1.OwnerReference) bool { return isTaskAction(&r) }); i >= 0 {
		return &refs[i]
	}
	for i := range refs {
		if refs[i].Controller != nil && *refs[i].Controller {
			return &refs[i]
		}
	}
	return nil
}

func isTaskAction(ref *metav1.OwnerReference) bool {
	group, _, _ := strings.Cut(ref.APIVersion, "/")
	return group == "flyte.org" && ref.Kind == "TaskAction"
}

// isAttempt reports whether a pod's name is the one that Flyte's executor gives to an attempt at an action
// (executor/pkg/plugin/task_exec_metadata.go at v2.0.43).
func isAttempt(pod, action string) bool {
	number, ok := strings.CutPrefix(pod, action+"-")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

func (a *Authenticator) taskAction(
	ctx context.Context, namespace string, ref *metav1.OwnerReference,
) (*kubeapi.TaskAction, error) {
	action, err := kubeapi.TaskActions.Get(ctx, a.o.Objects, namespace, ref.Name)
	if err := theOwner(ref, err, func() string { return string(action.UID) }); err != nil {
		return nil, err
	}
	return action, nil
}

// theOwner returns an error unless an owner was read without one, and is the one that the reference means.
func theOwner(ref *metav1.OwnerReference, err error, uid func() string) error {
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return advise(ReasonOwner, odd, "an owner of it is gone")
	case errors.Is(err, secret.ErrInvalid):
		return advise(ReasonOwner, odd, "an owner of it has a name that no object can have")
	case err != nil:
		return unavailable(err)
	case uid() != string(ref.UID):
		return advise(ReasonOwner, odd, "an owner of it is another object with the name")
	}
	return nil
}

func objectOf(kind string, m *metav1.ObjectMeta) object {
	return object{kind, m.Name, string(m.UID), m.CreationTimestamp.Time}
}
