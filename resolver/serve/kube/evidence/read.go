package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

// A Reader reads what the cluster has of the policies. A read lists metadata; the spec of an object is
// read once, because one that is changed has another generation, and one that is replaced another uid.
// A Reader is safe for concurrent use.
type Reader struct {
	client *kubeapi.Client
	config func() *Config

	mu    sync.Mutex
	specs map[types.UID]spec

	turns turns
}

// spec is what the spec of an object says, at generation 1.
type spec struct {
	digest   string
	problem  string          // of a binding: why it refuses nothing
	selector labels.Selector // of a binding: the namespaces that it selects
	policy   string          // of a binding: the policy that it binds
}

// NewReader returns a reader of the policies that config returns.
func NewReader(client *kubeapi.Client, config func() *Config) *Reader {
	return &Reader{client: client, config: config, specs: map[types.UID]spec{}}
}

// Read compares the policies of the configuration with those of the cluster, with three calls of the
// API, or six at most, and one for each object that it has not seen. If an error wraps
// [secret.ErrDenied], this user may not list or get them.
func (r *Reader) Read(ctx context.Context) (*Report, error) {
	config := r.config()
	report := &Report{Began: time.Now(), Config: config, Findings: make([]Finding, len(config.Policies))}
	mutates := slices.ContainsFunc(config.Policies, func(p Policy) bool { return p.Mutating })
	l := listing{
		policies: map[bool]map[string]metav1.ObjectMeta{}, bindings: map[bool]map[string]metav1.ObjectMeta{},
	}
	group, groupCtx := errgroup.WithContext(ctx)
	list := func(to map[bool]map[string]metav1.ObjectMeta, mutating bool, all lister) {
		group.Go(func() error { return l.list(groupCtx, r.client, to, mutating, all) })
	}
	list(l.policies, false, kubeapi.ValidatingPolicies.ListMetadata)
	list(l.bindings, false, kubeapi.ValidatingBindings.ListMetadata)
	if mutates {
		list(l.policies, true, kubeapi.MutatingPolicies.ListMetadata)
		list(l.bindings, true, kubeapi.MutatingBindings.ListMetadata)
	}
	if !config.Has(hosts) {
		group.Go(func() (err error) {
			report.levels, err = levels(groupCtx, r.client, config.TaskNamespaces)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("the admission policies: %w", err)
	}

	seen := map[types.UID]bool{}
	for i, p := range config.Policies {
		f, err := r.finding(ctx, p, &l, seen)
		if err != nil {
			return nil, fmt.Errorf("the admission policies: %w", err)
		}
		report.Findings[i] = f
	}
	r.forget(seen)
	return report, nil
}

// lister lists the metadata of the objects of a kind.
type lister func(context.Context, *kubeapi.Client, string, metav1.ListOptions) (
	*metav1.PartialObjectMetadataList, error)

// A listing is the metadata of policies and bindings, by whether they mutate and by name.
type listing struct {
	mu                 sync.Mutex
	policies, bindings map[bool]map[string]metav1.ObjectMeta
}

// maxPage is how many objects a page of a list has, and maxPages how many pages are read.
const (
	maxPage  = 250
	maxPages = 40
)

func (l *listing) list(
	ctx context.Context, client *kubeapi.Client, to map[bool]map[string]metav1.ObjectMeta, mutating bool, list lister,
) error {
	found := map[string]metav1.ObjectMeta{}
	o := metav1.ListOptions{Limit: maxPage}
	for range maxPages {
		page, err := list(ctx, client, "", o)
		if err != nil {
			return err
		}
		for i := range page.Items {
			if at := &page.Items[i]; named.MatchString(at.Name) {
				found[at.Name] = at.ObjectMeta
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			l.mu.Lock()
			to[mutating] = found
			l.mu.Unlock()
			return nil
		}
	}
	return fmt.Errorf("%w: the cluster has over %d of them", secret.ErrUnavailable, maxPage*maxPages)
}

// levels returns the levels of Pod Security that namespaces enforce, of those that exist.
func levels(ctx context.Context, client *kubeapi.Client, namespaces []string) (map[string]string, error) {
	all := map[string]string{}
	for some := range slices.Chunk(namespaces, 50) { // the names are in the URL
		page, err := kubeapi.Namespaces.ListMetadata(ctx, client, "", metav1.ListOptions{
			LabelSelector: nameLabel + " in (" + strings.Join(some, ",") + ")",
		})
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			all[page.Items[i].Name] = page.Items[i].Labels[levelLabel]
		}
	}
	return all, nil
}

// finding compares one policy with what was listed, and notes in seen which objects it has looked at.
func (r *Reader) finding(ctx context.Context, p Policy, l *listing, seen map[types.UID]bool) (Finding, error) {
	f := Finding{Policy: p}
	_, problem, err := r.look(ctx, object{p.Name, p.Mutating, false}, l.policies[p.Mutating], seen, &f)
	if err != nil {
		return f, err
	}
	if problem != "" {
		f.Problems = append(f.Problems, "policy "+p.Name+": "+problem)
	}
	binding, problem, err := r.look(ctx, object{p.Binding, p.Mutating, true}, l.bindings[p.Mutating], seen, &f)
	switch {
	case err != nil:
		return f, err
	case problem != "":
	case binding.problem != "":
		problem = binding.problem
	case binding.policy != p.Name:
		problem = "it binds another policy"
	}
	if problem != "" {
		f.Problems = append(f.Problems, "binding "+p.Binding+": "+problem)
	}
	f.selector = binding.selector
	return f, nil
}

// An object is a policy or a binding.
type object struct {
	name     string
	mutating bool
	binding  bool
}

// look returns what the spec of an object says, or what is wrong with the object. It raises f.Since to
// the object's creation.
func (r *Reader) look(
	ctx context.Context, o object, all map[string]metav1.ObjectMeta, seen map[types.UID]bool, f *Finding,
) (s spec, problem string, err error) {
	meta, exists := all[o.name]
	if !exists {
		return s, "missing", nil
	}
	seen[meta.UID] = true
	if meta.CreationTimestamp.After(f.Since) {
		f.Since = meta.CreationTimestamp.Time
	}
	if meta.Generation != 1 {
		return s, fmt.Sprintf("changed after it was made (generation %d)", meta.Generation), nil
	}
	r.mu.Lock()
	s, known := r.specs[meta.UID]
	r.mu.Unlock()
	if !known {
		var is metav1.ObjectMeta
		s, is, err = get(ctx, r.client, o)
		switch {
		case errors.Is(err, secret.ErrNotFound):
			return s, "missing", nil
		case err != nil:
			return s, "", err
		case is.UID != meta.UID || is.Generation != 1:
			return s, "changed a moment ago", nil
		}
		r.mu.Lock()
		r.specs[meta.UID] = s
		r.mu.Unlock()
	}
	if !strings.HasSuffix(o.name, "-"+s.digest) {
		return s, "another content than its name says (digest " + s.digest + ")", nil
	}
	return s, "", nil
}

// forget drops the specs of objects that are gone.
func (r *Reader) forget(seen map[types.UID]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid := range r.specs {
		if !seen[uid] {
			delete(r.specs, uid)
		}
	}
}

// get reads an object and returns what its spec says.
func get(ctx context.Context, client *kubeapi.Client, which object) (s spec, meta metav1.ObjectMeta, err error) {
	switch {
	case which.binding && which.mutating:
		o, err := kubeapi.MutatingBindings.Get(ctx, client, "", which.name)
		if err != nil {
			return s, meta, err
		}
		s, err = bound(o.Spec, o.Spec.PolicyName, o.Spec.ParamRef != nil, o.Spec.MatchResources)
		return s, o.ObjectMeta, err
	case which.binding:
		o, err := kubeapi.ValidatingBindings.Get(ctx, client, "", which.name)
		if err != nil {
			return s, meta, err
		}
		s, err = bound(o.Spec, o.Spec.PolicyName, o.Spec.ParamRef != nil, o.Spec.MatchResources)
		if !slices.Equal(o.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
			s.problem = fmt.Sprintf("it does not refuse (validationActions %v)", o.Spec.ValidationActions)
		}
		return s, o.ObjectMeta, err
	case which.mutating:
		o, err := kubeapi.MutatingPolicies.Get(ctx, client, "", which.name)
		if err != nil {
			return s, meta, err
		}
		s.digest, err = digest(o.Spec)
		return s, o.ObjectMeta, err
	}
	o, err := kubeapi.ValidatingPolicies.Get(ctx, client, "", which.name)
	if err != nil {
		return s, meta, err
	}
	s.digest, err = digest(o.Spec)
	return s, o.ObjectMeta, err
}

// bound returns what the spec of a binding says. A binding that is not for all objects of its
// namespaces is a problem.
func bound(all any, policy string, hasParam bool, match *admissionv1.MatchResources) (s spec, err error) {
	if s.digest, err = digest(all); err != nil {
		return s, err
	}
	s.policy = policy
	if hasParam || match == nil || match.NamespaceSelector == nil || len(match.ResourceRules) > 0 ||
		len(match.ExcludeResourceRules) > 0 || selects(match.ObjectSelector) {
		s.problem = "it is not for all objects of some namespaces"
		return s, nil
	}
	if s.selector, err = metav1.LabelSelectorAsSelector(match.NamespaceSelector); err != nil {
		s.problem = "its namespaceSelector is not valid"
	}
	return s, nil
}

// selects reports whether s is for some objects only.
func selects(s *metav1.LabelSelector) bool {
	return s != nil && (len(s.MatchLabels) > 0 || len(s.MatchExpressions) > 0)
}

// digest returns the beginning of the SHA-256 of a spec, as docs/reference/admission.md says.
func digest(spec any) (string, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	var sorted map[string]any
	if err := json.Unmarshal(text, &sorted); err != nil {
		return "", err
	}
	if text, err = json.Marshal(sorted); err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}
