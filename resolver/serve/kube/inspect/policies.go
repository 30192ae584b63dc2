package inspect

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
	"inject/resolver/serve/kube/evidence"
)

// nameLabel is the label that the API server gives each namespace.
const nameLabel = "kubernetes.io/metadata.name"

// places finds out which namespaces are those of tasks, and reads the labels of all.
func (i *inspection) places(ctx context.Context) {
	if i.known = i.Config != nil; !i.known {
		config, err := i.discover(ctx)
		if err != nil {
			i.unseen("policies", err)
			i.unread = true
		}
		if len(i.TaskNamespaces) > 0 {
			config.TaskNamespaces = nil
		}
		i.Config = config
	}
	i.tasks = slices.Compact(slices.Sorted(slices.Values(slices.Concat(i.Config.TaskNamespaces, i.TaskNamespaces))))
	copied := *i.Config
	copied.TaskNamespaces = i.tasks
	i.Config = &copied
	if len(i.tasks) == 0 {
		i.found("namespaces", Failure, "name those in which Flyte's tasks run with --task-namespace NAME",
			"no policy selects a namespace, and none is given")
	}
	labels := map[string]map[string]string{}
	err := each(ctx, i.client, "", metav1.ListOptions{}, kubeapi.Namespaces.ListMetadata,
		func(l *metav1.PartialObjectMetadataList) int {
			for n := range l.Items {
				labels[l.Items[n].Name] = l.Items[n].Labels
			}
			return len(l.Items)
		})
	if err != nil {
		i.unseen("namespaces", err)
		return
	}
	i.labels = labels
	var missing []string
	for _, name := range i.tasks {
		if labels[name] == nil {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		i.found("namespaces", Failure, "create them, or name others with --task-namespace",
			"do not exist: %s", some(missing))
	} else if len(i.tasks) > 0 {
		i.found("namespaces", OK, "", "of tasks: %s", some(i.tasks))
	}
}

// named matches the names of the chart's policies and bindings: the part before the digest is 1.
var named = regexp.MustCompile(`^(inject-[a-z][a-z-]{0,40})-[0-9a-f]{16}$`)

// discover returns the policies of the chart that the cluster has, with the namespaces that they select.
// Of policies with the same name but for the digest it takes the youngest.
func (i *inspection) discover(ctx context.Context) (*evidence.Config, error) {
	type one struct {
		evidence.Policy
		made metav1.Time
	}
	c := &evidence.Config{}
	youngest, namespaces := map[string]one{}, map[string]bool{}
	note := func(at *metav1.ObjectMeta, mutating bool, policy string, match *admissionv1.MatchResources) {
		m := named.FindStringSubmatch(at.Name)
		if m == nil || match == nil || match.NamespaceSelector == nil {
			return
		}
		for _, e := range match.NamespaceSelector.MatchExpressions {
			if e.Key == nameLabel && e.Operator == metav1.LabelSelectorOpIn {
				for _, name := range e.Values {
					namespaces[name] = true
				}
			}
		}
		now := one{evidence.Policy{Name: policy, Binding: at.Name, Mutating: mutating}, at.CreationTimestamp}
		before, twice := youngest[m[1]]
		if twice && now.made.Before(&before.made) {
			now, before = before, now
		}
		if youngest[m[1]] = now; twice {
			i.left = append(i.left, before.Policy)
		}
	}
	err := each(ctx, i.client, "", metav1.ListOptions{}, kubeapi.ValidatingBindings.List,
		func(l *admissionv1.ValidatingAdmissionPolicyBindingList) int {
			for n := range l.Items {
				b := &l.Items[n]
				note(&b.ObjectMeta, false, b.Spec.PolicyName, b.Spec.MatchResources)
			}
			return len(l.Items)
		})
	if err != nil {
		return c, err
	}
	if i.minor >= inherits {
		err = each(ctx, i.client, "", metav1.ListOptions{}, kubeapi.MutatingBindings.List,
			func(l *admissionv1.MutatingAdmissionPolicyBindingList) int {
				for n := range l.Items {
					b := &l.Items[n]
					note(&b.ObjectMeta, true, b.Spec.PolicyName, b.Spec.MatchResources)
				}
				return len(l.Items)
			})
	}
	for _, base := range slices.Sorted(maps.Keys(youngest)) {
		c.Policies = append(c.Policies, youngest[base].Policy)
	}
	c.TaskNamespaces = slices.Sorted(maps.Keys(namespaces))
	return c, err
}

// needed are the policies without which nothing vouches for a pod.
var needed = []string{"inject-accounts", "inject-claims", "inject-tokens", "inject-workloads"}

const (
	hosts      = "inject-hosts"
	inheriting = "inject-inherits"
	commands   = "inject-exec"
)

// beside are the policies that vouch for no pod: they say how pods run inject, and what they may mount. The servers
// serve pods that are older than these.
var beside = []string{"inject-injected", "inject-mutation", "inject-objects"}

// settles is how much younger than a pod a policy must be: servers of a cluster take it in one after
// the other.
const settles = time.Minute

const install = "install or upgrade the chart: docs/reference/admission.md"

// policies reports whether each policy is in force in all namespaces of tasks.
func (i *inspection) policies(ctx context.Context) {
	if i.unread {
		return
	}
	config := *i.Config
	// Which accounts may claim is read from RBAC.
	config.Claimers = nil
	report, err := evidence.NewReader(i.client, func() *evidence.Config { return &config }).Read(ctx)
	if err != nil {
		i.unseen("policies", err)
		return
	}
	i.report = report
	for _, base := range needed {
		if !config.Has(base) {
			i.found("policies", Failure, install, "%s is missing: without it nothing vouches for a pod", base)
		}
	}
	if i.minor >= inherits && !config.Has(inheriting) {
		i.found("policies", Warning, install,
			"%s is missing: pods that the pods of tasks make, such as executors of Spark, get no secrets", inheriting)
	}
	for n := range report.Findings {
		i.policy(&report.Findings[n])
	}
	for _, p := range i.left {
		i.found("policies", Warning, "an upgrade that goes on has both, or another release; "+
			"if neither does, an upgrade that failed has left it: delete it and its policy "+p.Name,
			"%s is there twice, also as the binding %s", p.Base(), p.Binding)
	}
	if !i.known && len(config.Policies) > 0 {
		i.found("policies", Warning, "give the file of the server, with --kube-identity FILE",
			"were compared with the digests in their own names, and not with the chart")
	}
	i.gaps(report)
}

// policy reports on one policy.
func (i *inspection) policy(f *evidence.Finding) {
	base := f.Policy.Base()
	problems := f.Problems
	for _, namespace := range i.tasks {
		if f.Problems == nil {
			problems = append(problems, f.In(namespace)...)
		}
	}
	for _, p := range problems {
		hint := install
		if strings.Contains(p, "does not refuse") {
			hint = "set policies.enforce to deny in the chart's values when the audit log shows no pod that should pass"
		}
		level := Failure
		if !slices.Contains(needed, base) {
			level = Warning
		}
		i.found("policies", level, hint, "%s: %s", base, p)
	}
	since := f.Since.UTC().Format(time.RFC3339)
	switch {
	case problems != nil:
	case time.Since(f.Since) < settles && i.vouches(base):
		i.found("policies", Warning, "wait a minute: pods that are made before are not served",
			"%s is in force since %s only", base, since)
	default:
		i.found("policies", OK, "", "%s is in force since %s", base, since)
	}
}

// vouches reports whether the servers serve only pods that are younger than a policy. The file of the server names
// those; without it they are known by their names.
func (i *inspection) vouches(base string) bool { return i.known || !slices.Contains(beside, base) }

// gaps reports what leaves pods unprotected although the policies are in force.
func (i *inspection) gaps(report *evidence.Report) {
	gaps := report.Gaps(evidence.Places{Store: i.Store})
	open := map[string]bool{}
	for _, g := range gaps {
		if open[g.Namespace] = true; g.Namespace != "" {
			i.found("hosts", Failure, "set policies.hosts to true in the chart's values, or let the namespace enforce "+
				"Pod Security: kubectl label namespace "+g.Namespace+" pod-security.kubernetes.io/enforce=baseline",
				"%s", g.Text)
			continue
		}
		i.found("store", Failure, "move the secrets to a namespace of their own: injectd migrate", "%s", g.Text)
	}
	if i.Store != "" && !open[""] {
		i.found("store", OK, "", "the namespace of the secrets, %s, is none of tasks", i.Store)
	}
	var closed []string
	for _, name := range i.tasks {
		if !open[name] {
			closed = append(closed, name)
		}
	}
	if closed != nil {
		how := "by the policy " + hosts
		if !report.Config.Has(hosts) {
			how = "by Pod Security"
		}
		i.found("hosts", OK, "", "are closed to pods %s %s", in(closed), how)
	}
}

// since returns when the last policy that vouches for pods came into force, in all namespaces of tasks.
func (i *inspection) since() (time.Time, error) {
	if i.report == nil || len(i.report.Findings) == 0 {
		return time.Time{}, errors.New("there are no policies")
	}
	vouching := *i.report
	vouching.Findings = slices.DeleteFunc(slices.Clone(vouching.Findings), func(f evidence.Finding) bool {
		return !i.vouches(f.Policy.Base())
	})
	var last time.Time
	for _, name := range i.tasks {
		since, err := vouching.InForce(name)
		if err != nil {
			return last, err
		}
		if since.After(last) {
			last = since
		}
	}
	return last, nil
}

// refusesCommands reports whether the policy inject-exec is in force in a namespace.
func (i *inspection) refusesCommands(namespace string) bool {
	if i.report == nil {
		return false
	}
	at := slices.IndexFunc(i.report.Findings, func(f evidence.Finding) bool { return f.Policy.Base() == commands })
	return at >= 0 && i.report.Findings[at].In(namespace) == nil
}
