package inspect

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
)

// A SubjectKind is a kind of subjects of RBAC.
type SubjectKind string

// The kinds.
const (
	User    SubjectKind = "user"
	Group   SubjectKind = "group"
	Account SubjectKind = "account" // a service account
)

// A Subject may do something.
type Subject struct {
	Kind            SubjectKind
	Namespace, Name string // the namespace of an account
}

// String returns the subject as [ParseSubject] takes it, but for a blank in place of the colon.
func (s Subject) String() string {
	if s.Kind == Account {
		return string(s.Kind) + " " + s.Namespace + "/" + s.Name
	}
	return string(s.Kind) + " " + s.Name
}

// ParseSubject reads user:NAME, group:NAME or account:NAMESPACE/NAME.
func ParseSubject(text string) (Subject, error) {
	kind, name, _ := strings.Cut(text, ":")
	s := Subject{Kind: SubjectKind(kind), Name: name}
	ok := name != "" && slices.Contains([]SubjectKind{User, Group, Account}, s.Kind)
	if s.Kind == Account {
		s.Namespace, s.Name, _ = strings.Cut(name, "/")
		ok = s.Namespace != "" && s.Name != "" && !strings.Contains(s.Name, "/")
	}
	if !ok {
		return Subject{}, secret.WithHint(fmt.Errorf("%w: %.80q is no subject", secret.ErrInvalid, text),
			"write user:NAME, group:NAME or account:NAMESPACE/NAME")
	}
	return s, nil
}

const accountPrefix = "system:serviceaccount:"

// subjectOf returns the subject of a binding. The user of a service account is that account.
func subjectOf(s rbacv1.Subject) Subject {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return Subject{Account, s.Namespace, s.Name}
	case rbacv1.GroupKind:
		return Subject{Kind: Group, Name: s.Name}
	}
	if namespace, name, ok := strings.Cut(strings.TrimPrefix(s.Name, accountPrefix), ":"); ok &&
		strings.HasPrefix(s.Name, accountPrefix) {
		return Subject{Account, namespace, name}
	}
	return Subject{Kind: User, Name: s.Name}
}

// ofKubernetes reports whether s is a part of Kubernetes: no authenticator gives its name to others.
func (s Subject) ofKubernetes() bool {
	switch s.Kind {
	case Account:
		return s.Namespace == "kube-system"
	case User:
		return strings.HasPrefix(s.Name, "system:kube-") || s.Name == "system:apiserver"
	}
	return s.Name == "system:nodes" || s.Name == "system:bootstrappers" || s.Name == "system:monitoring"
}

// administrator reports whether s is a group that administrators have by their certificates.
func (s Subject) administrator() bool {
	return s.Kind == Group && (s.Name == "system:masters" || s.Name == "kubeadm:cluster-admins")
}

// review returns a question about s.
func (s Subject) review() *authorizationv1.SubjectAccessReview {
	r := &authorizationv1.SubjectAccessReview{}
	r.Spec.Groups = []string{"system:authenticated"}
	switch s.Kind {
	case User:
		r.Spec.User = s.Name
	case Group:
		r.Spec.Groups = append(r.Spec.Groups, s.Name)
	case Account:
		r.Spec.User = accountPrefix + s.Namespace + ":" + s.Name
		r.Spec.Groups = append(r.Spec.Groups, "system:serviceaccounts", "system:serviceaccounts:"+s.Namespace)
	}
	return r
}

// asked are the questions about a subject, in each namespace of tasks.
var asked = []struct {
	text     string
	question authorizationv1.ResourceAttributes
}{
	{"claim every scope", authorizationv1.ResourceAttributes{
		Verb: "claim", Group: "inject.flyte.org", Resource: "scopes",
	}},
	{"run commands in pods (exec)", authorizationv1.ResourceAttributes{
		Verb: "create", Resource: "pods", Subresource: "exec",
	}},
	{"attach to pods", authorizationv1.ResourceAttributes{Verb: "create", Resource: "pods", Subresource: "attach"}},
	{"forward ports of pods", authorizationv1.ResourceAttributes{
		Verb: "create", Resource: "pods", Subresource: "portforward",
	}},
	{"make tokens of accounts", authorizationv1.ResourceAttributes{
		Verb: "create", Resource: "serviceaccounts", Subresource: "token",
	}},
	{"act as accounts", authorizationv1.ResourceAttributes{Verb: "impersonate", Resource: "serviceaccounts"}},
}

// subjects asks the API server, and so each authorizer that it has, about the named subjects.
func (i *inspection) subjects(ctx context.Context) {
	for _, s := range i.Subjects {
		for _, namespace := range i.tasks {
			var may []string
			var err error
			claims := false
			for n, a := range asked {
				r, question := s.review(), a.question
				question.Namespace = namespace
				r.Spec.ResourceAttributes = &question
				if r, err = kubeapi.SubjectAccessReviews.Create(ctx, i.client, "", "", r); err != nil {
					break
				}
				if r.Status.Allowed {
					may, claims = append(may, a.text), claims || n == 0
				}
			}
			chart := i.mayClaimAll(&holder{subject: s})
			switch {
			case err != nil:
				i.unseen("subject", fmt.Errorf("%s: %w", s, err))
				return
			case may == nil:
				i.found("subject", OK, "", "%s may do nothing in namespace %s that leads to secrets of all scopes", s,
					namespace)
			case claims && i.inside(s) != "":
				i.found("subject", Failure, "move it to another namespace, or delete the binding",
					"%s may %s in namespace %s, and %s", s, strings.Join(may, ", "), namespace, i.inside(s))
			case chart:
				i.found("subject", OK, "", "%s may %s in namespace %s", s, strings.Join(may, ", "), namespace)
			default:
				i.found("subject", Warning, "take the roles away that it does not need",
					"%s may %s in namespace %s", s, strings.Join(may, ", "), namespace)
			}
		}
	}
}
