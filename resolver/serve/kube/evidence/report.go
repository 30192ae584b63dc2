package evidence

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// A Report is what the cluster had of the policies when it was read. It is immutable.
type Report struct {
	// Began is when reading began, by our clock: the report says nothing of what happened later.
	Began time.Time
	// Config is what the cluster was compared with.
	Config *Config
	// Findings are those of each policy, in the order of the file.
	Findings []Finding
	// levels are the levels of Pod Security that the task namespaces enforce. It is nil if the policy
	// inject-hosts is one of the policies, and a namespace that does not exist is not in it.
	levels map[string]string
}

// A Finding is what the cluster has of one policy and its binding.
type Finding struct {
	Policy Policy
	// Since is when the later of the two was created, by the API server's clock.
	Since time.Time
	// Problems say why the policy is in force in no namespace, each with the object's name. If there
	// is one, Since has no meaning.
	Problems []string

	selector labels.Selector // of the binding's namespaces
}

// In returns why the policy is not in force in a namespace, or nil.
func (f *Finding) In(namespace string) []string {
	if f.Problems != nil {
		return f.Problems
	}
	if !f.selector.Matches(labels.Set{nameLabel: namespace}) {
		return []string{fmt.Sprintf("binding %s: it does not select the namespace %s", f.Policy.Binding, namespace)}
	}
	return nil
}

// nameLabel is the label that the API server gives each namespace.
const nameLabel = "kubernetes.io/metadata.name"

// InForce returns since when all policies are in force in a namespace, by the API server's clock. The
// error names every policy that is missing, changed, or not bound there.
func (r *Report) InForce(namespace string) (since time.Time, err error) {
	var problems []string
	for i := range r.Findings {
		f := &r.Findings[i]
		problems = append(problems, f.In(namespace)...)
		if f.Since.After(since) {
			since = f.Since
		}
	}
	if problems != nil {
		return time.Time{}, errors.New(strings.Join(problems, "; "))
	}
	return since, nil
}

// Places are namespaces that no user of a task namespace may reach; "" for none.
type Places struct {
	Store  string // of the secrets, if the store is a namespace
	Server string // of this server's own account, if it runs in a pod
}

// A Gap is what leaves pods unprotected although the policies are in force.
type Gap struct {
	Namespace string // of the pods; "" for all
	Text      string
}

// Gaps returns what leaves pods unprotected, nil if nothing does: each user with Kubernetes' role edit
// can read the Secrets of a namespace and act as its accounts, and a pod that reaches its node reads the
// tokens of all pods there.
func (r *Report) Gaps(p Places) (gaps []Gap) {
	for _, a := range r.Config.Claimers {
		if r.Config.Serves(a.Namespace) {
			gaps = append(gaps, Gap{Text: fmt.Sprintf(
				"the account %s may claim every scope, and is in a task namespace, where each user with the role edit "+
					"can act as it", a)})
		}
	}
	for _, place := range []struct{ namespace, what string }{
		{p.Store, "the namespace of the secrets, %s, is a task namespace, where each user with the role edit reads " +
			"them"},
		{p.Server, "the namespace of this server, %s, is a task namespace, where each user with the role edit can " +
			"act as its account"},
	} {
		if place.namespace != "" && r.Config.Serves(place.namespace) {
			gaps = append(gaps, Gap{Text: fmt.Sprintf(place.what, place.namespace)})
		}
	}
	for _, namespace := range r.Config.TaskNamespaces {
		if text := r.open(namespace); text != "" {
			gaps = append(gaps, Gap{namespace, text})
		}
	}
	return gaps
}

// open returns how pods of a namespace may reach their node, or "".
func (r *Report) open(namespace string) string {
	if i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Policy.Base() == hosts }); i >= 0 {
		if problems := r.Findings[i].In(namespace); problems != nil {
			return "pods of the namespace " + namespace + " may reach their node: " + strings.Join(problems, "; ")
		}
		return ""
	}
	level, exists := r.levels[namespace]
	if !exists || level == "baseline" || level == "restricted" {
		return ""
	}
	return fmt.Sprintf("pods of the namespace %s may reach their node: there is no policy inject-hosts, and the "+
		"namespace has not the label %s: baseline", namespace, levelLabel)
}

// levelLabel says which level of Pod Security a namespace enforces.
const levelLabel = "pod-security.kubernetes.io/enforce"
