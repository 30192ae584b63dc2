package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/identity"
	"inject/resolver/serve/kube/evidence"
)

// Why the credentials of a pod are refused, besides the reasons of package identity.
const (
	ReasonUnbound     = "unbound"      // the token is of an account, and not of a pod
	ReasonNamespace   = "namespace"    // pods of this namespace are not served
	ReasonReview      = "review"       // the API server does not accept the token
	ReasonPod         = "pod"          // there is no such pod, or it is another one with its name
	ReasonEnded       = "ended"        // the pod has ended, or is being deleted
	ReasonAccount     = "account"      // the pod runs as another account
	ReasonNode        = "node"         // the pod is on another node
	ReasonOwner       = "owner"        // an owner of the pod is gone, is another object, or there are too many
	ReasonTask        = "task"         // the TaskAction cannot be read, or the pod has not a name that Flyte gives
	ReasonLabels      = "labels"       // the labels do not say the scope of the TaskAction
	ReasonDeclared    = "declared"     // an annotation cannot be read, or declares more than the TaskAction
	ReasonUnclaimed   = "unclaimed"    // no TaskAction owns the pod, and its labels say no scope
	ReasonParent      = "parent"       // a pod whose secrets it inherits is gone, has ended, or is another one
	ReasonParentScope = "parent_scope" // the parent, a pod or a TaskAction, has another scope or declares less
	ReasonDepth       = "depth"        // it inherits over too many pods
	ReasonPolicies    = "policies"     // a policy is missing, was changed, or does not bind the namespace
	ReasonOlder       = "older"        // the pod, or what it was made of, is older than the policies
	ReasonUnprotected = "unprotected"  // the policies hold, and others may reach the pods' secrets all the same
)

// method is that of the identities of pods.
const method = "kubernetes"

// refuse returns a refusal of a token that is not known to be genuine.
func refuse(reason, format string, args ...any) error {
	return identity.Refuse(identity.Refusal{Who: method, Reason: reason, Text: fmt.Sprintf(format, args...)})
}

// advise returns a refusal of a genuine token, whose caller is told what to do.
func advise(reason, advice, format string, args ...any) error {
	return identity.Refuse(identity.Refusal{
		Who: method, Reason: reason, Advice: advice, Text: fmt.Sprintf(format, args...),
	})
}

// Policies tell whether the admission policies vouch for pods: an [evidence.Reader].
type Policies interface {
	// Fresh returns a report that was begun after the call.
	Fresh(ctx context.Context) (*evidence.Report, error)
}

// Options configure an [Authenticator].
type Options struct {
	Config   func() *evidence.Config // which namespaces are served
	Policies Policies
	// Reviews and Objects call the API server as a user who may create TokenReviews, and get pods and
	// their owners in the task namespaces. They are two, so that neither starves the other.
	Reviews, Objects *kubeapi.Client
	// Margin is by how much a pod must be younger than the policies, since an API server takes a
	// moment to know of a new policy.
	Margin time.Duration
	// Places returns where no user of a task namespace may come to.
	Places func() evidence.Places
	// AcceptUnprotected serves pods although others may reach their secrets ([evidence.Report.Gaps]).
	AcceptUnprotected bool
}

// An Authenticator authenticates pods. It is an [identity.Authenticator].
type Authenticator struct {
	o    Options
	gate *gate
}

// New returns an authenticator.
func New(o Options) *Authenticator { return &Authenticator{o: o, gate: newGate()} }

// Authenticate implements [identity.Authenticator]. It returns ErrNone for what does not look like the
// token of a pod for [Audience]. Whatever keeps it from asking the API server is [secret.ErrUnavailable].
func (a *Authenticator) Authenticate(ctx context.Context, c identity.Credentials) (identity.Identity, error) {
	now := time.Now().Add(a.o.Reviews.Skew())
	t, err := look(c.Bearer.Reveal(), now)
	if err != nil {
		return identity.Identity{}, err
	}
	config := a.o.Config()
	if !config.Serves(t.namespace) {
		return identity.Identity{}, refuse(ReasonNamespace, "it is of a pod of a namespace whose pods are not served")
	}
	leave, err := a.gate.enter(ctx, t.namespace)
	if err != nil {
		return identity.Identity{}, err
	}
	defer leave()

	p, err := a.verify(ctx, t, c.Bearer)
	if err != nil {
		return identity.Identity{}, err
	}
	task, err := a.taskOf(ctx, config, p, 0)
	if err != nil {
		return identity.Identity{}, err
	}
	report, err := a.o.Policies.Fresh(ctx) // tells of everything that was seen above
	if err != nil {
		return identity.Identity{}, unavailable(err)
	}
	unprotected, err := a.vouched(report, t.namespace, task)
	if err != nil {
		return identity.Identity{}, err
	}
	return p.identity(task, unprotected), nil
}

// unavailable returns an error of a call of the API. Whatever it is, it says nothing of the caller.
func unavailable(err error) error {
	if errors.Is(err, secret.ErrUnavailable) {
		return fmt.Errorf("%s: %w", method, err)
	}
	return fmt.Errorf("%w: %s: %s", secret.ErrUnavailable, method, err.Error())
}

// A pod is what matters of one: the object itself may have 1.5 MiB.
type pod struct {
	object // the pod

	namespace, account, node string
	labels                   map[string]string
	secrets                  map[string]string // the annotations that declare secrets
	inherits                 string
	owners                   []metav1.OwnerReference
	ended                    string // why it counts no more; "" while it does
}

// An object is a part of what a pod is made of.
type object struct {
	kind, name, uid string
	created         time.Time
}

func (o object) String() string { return o.kind + " " + o.name }

func newPod(p *corev1.Pod) *pod {
	one := &pod{
		object:    object{"pod", p.Name, string(p.UID), p.CreationTimestamp.Time},
		namespace: p.Namespace, account: p.Spec.ServiceAccountName, node: p.Spec.NodeName,
		labels: p.Labels, secrets: map[string]string{}, inherits: p.Annotations[inheritsAnnotation],
		owners: p.OwnerReferences,
	}
	for name, value := range p.Annotations {
		if strings.HasPrefix(name, declares) {
			one.secrets[name] = value
		}
	}
	switch {
	case p.DeletionTimestamp != nil:
		one.ended = "is being deleted"
	case p.Status.Phase != corev1.PodPending && p.Status.Phase != corev1.PodRunning:
		one.ended = "is in no phase in which it asks for secrets"
	}
	return one
}

// Names that the API server gives the extra fields of a user with a pod's token.
const (
	extraPod    = "authentication.kubernetes.io/pod-name"
	extraPodUID = "authentication.kubernetes.io/pod-uid"
	extraNode   = "authentication.kubernetes.io/node-name"
)

// verify returns the pod of a token, if the token is genuine and the pod is still the one that it was
// made for.
func (a *Authenticator) verify(ctx context.Context, t ticket, bearer secret.Value) (*pod, error) {
	var review *authenticationv1.TokenReview
	var live *pod
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		review, err = kubeapi.TokenReviews.Create(groupCtx, a.o.Reviews, "", "", &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: string(bearer.Reveal()), Audiences: []string{Audience}},
		})
		return err
	})
	group.Go(func() error {
		p, err := kubeapi.Pods.Get(groupCtx, a.o.Objects, t.namespace, t.pod)
		if err == nil {
			live = newPod(p)
		}
		if errors.Is(err, secret.ErrNotFound) {
			return nil
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, unavailable(err)
	}

	user := review.Status.User
	extra := func(name string) string {
		if values := user.Extra[name]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	switch {
	// The reasons of the first three are for the operator: they say nothing that the token proves.
	case live == nil, live.uid != t.podUID:
		return nil, refuse(ReasonPod, "there is no such pod any more")
	case live.ended != "":
		return nil, refuse(ReasonEnded, "its pod %s", live.ended)
	case !review.Status.Authenticated && strings.Contains(review.Status.Error, "expired"):
		return nil, refuse(identity.ReasonExpired, "it has expired")
	case !review.Status.Authenticated:
		return nil, refuse(ReasonReview, "the API server does not accept it")
	case len(review.Status.Audiences) != 1 || review.Status.Audiences[0] != Audience:
		return nil, refuse(identity.ReasonAudience, "the API server did not look at its audience")
	case extra(extraPod) != t.pod, extra(extraPodUID) != t.podUID:
		return nil, refuse(ReasonPod, "the API server knows it as that of another pod")
	case live.account == "" || user.Username != "system:serviceaccount:"+t.namespace+":"+live.account:
		return nil, refuse(ReasonAccount, "its pod runs as another account")
	case live.node == "" || extra(extraNode) != live.node:
		return nil, refuse(ReasonNode, "its pod is on another node than the one that it was made for")
	}
	return live, nil
}

// vouched returns an error unless the policies are in force, and older than all that the task of a pod
// was taken from. With unprotected they are, and others may reach the pod's secrets all the same.
func (a *Authenticator) vouched(report *evidence.Report, namespace string, t *task) (unprotected bool, err error) {
	since, err := report.InForce(namespace)
	if err != nil {
		return false, advise(ReasonPolicies,
			"the admission policies that vouch for pods are not in force: ask the server's operator", "%v", err)
	}
	var gaps []string
	for _, g := range report.Gaps(a.o.Places()) {
		if g.Namespace == "" || g.Namespace == namespace {
			gaps = append(gaps, g.Text)
		}
	}
	if gaps != nil && !a.o.AcceptUnprotected {
		return true, advise(ReasonUnprotected,
			"the secrets of pods would not be protected in this cluster: ask the server's operator", "%s",
			strings.Join(gaps, "; "))
	}
	for _, o := range t.from {
		if young := since.Add(a.o.Margin); o.created.Before(young) {
			return gaps != nil, advise(ReasonOlder,
				"it is older than the admission policies that vouch for it: start it again, and what made it",
				"its %s was made at %s, and the policies vouch for what was made from %s on", o.kind,
				o.created.UTC().Format(time.RFC3339), young.UTC().Format(time.RFC3339))
		}
	}
	return gaps != nil, nil
}

// identity returns the identity of a pod with a task.
func (p *pod) identity(t *task, unprotected bool) identity.Identity {
	attributes := map[string][]string{
		"kubernetes.namespace": {p.namespace}, "kubernetes.serviceaccount": {p.account},
		"kubernetes.pod": {p.name}, "kubernetes.uid": {p.uid}, "kubernetes.node": {p.node},
		"kubernetes.project": {t.project}, "kubernetes.domain": {t.domain},
		"kubernetes.declared": t.declared, "kubernetes.parent": t.parents,
	}
	for key, value := range p.labels {
		attributes["kubernetes.label."+key] = []string{value}
	}
	if unprotected {
		attributes["kubernetes.protection"] = []string{ReasonUnprotected}
	}
	return identity.New(method, p.namespace+"/"+p.name, attributes)
}
