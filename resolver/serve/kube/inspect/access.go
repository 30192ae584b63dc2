package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/resolver/kubeapi"
)

// A power is something that a role allows and that leads to the secrets of tasks.
type power int

const (
	runs     power = 1 << iota // commands in pods
	attaches                   // to a command of a pod
	forwards                   // ports of pods
	mints                      // tokens of service accounts
	acts                       // as service accounts, by impersonating them
	poses                      // as users or groups, by impersonating them
	kubelets                   // by the kubelets' API
	all                        // everything
)

// doing is how powers are said.
var doing = []struct {
	power power
	text  string
}{
	{runs, "run commands in pods (exec)"},
	{attaches, "attach to pods"},
	{forwards, "forward ports of pods"},
	{kubelets, "run commands by the kubelets (nodes/proxy)"},
	{mints, "make tokens of accounts"},
	{acts, "act as accounts"},
	{poses, "act as users or groups"},
}

// String says what the powers are, as "do this and that".
func (p power) String() string {
	var parts []string
	for _, d := range doing {
		if p&d.power != 0 {
			parts = append(parts, d.text)
		}
	}
	last := len(parts) - 1
	if last <= 0 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:last], ", ") + " and " + parts[last]
}

// allowed is what the rules of a role allow.
type allowed struct {
	powers power
	scopes []string // that may be claimed; "" is every one
}

func (a allowed) none() bool { return a.powers == 0 && a.scopes == nil }

// allows returns what rules allow. On API servers before 1.35 the verb get runs commands, too.
func allows(rules []rbacv1.PolicyRule, minor int) (a allowed) {
	run := []string{"create"}
	if minor < 35 {
		run = append(run, "get")
	}
	for _, one := range []struct {
		power           power
		verbs           []string
		group, resource string
	}{
		{runs, run, "", "pods/exec"},
		{attaches, run, "", "pods/attach"},
		{forwards, run, "", "pods/portforward"},
		{kubelets, []string{"create", "get"}, "", "nodes/proxy"},
		{mints, []string{"create"}, "", "serviceaccounts/token"},
		{acts, []string{"impersonate"}, "", "serviceaccounts"},
		{acts, []string{"impersonate:serviceaccount"}, "authentication.k8s.io", "serviceaccounts"},
		{poses, []string{"impersonate"}, "", "users"},
		{poses, []string{"impersonate"}, "", "groups"},
		{poses, []string{"impersonate:user-info"}, "authentication.k8s.io", "users"},
		{poses, []string{"impersonate:user-info"}, "authentication.k8s.io", "groups"},
	} {
		for n := range rules {
			for _, verb := range one.verbs {
				if grants(&rules[n], verb, one.group, one.resource) {
					a.powers |= one.power
				}
			}
		}
	}
	for n := range rules {
		r := &rules[n]
		if slices.Contains(r.Verbs, "*") && slices.Contains(r.APIGroups, "*") && slices.Contains(r.Resources, "*") &&
			r.ResourceNames == nil {
			a.powers |= all
		}
		if !grants(r, "claim", "inject.flyte.org", "scopes") {
			continue
		}
		if r.ResourceNames == nil {
			a.scopes = append(a.scopes, "")
		}
		a.scopes = append(a.scopes, r.ResourceNames...)
	}
	return a
}

// grants reports whether a rule grants a verb on a resource, for all names or for some.
func grants(r *rbacv1.PolicyRule, verb, group, resource string) bool {
	has := func(list []string, text string) bool {
		return slices.Contains(list, text) || slices.Contains(list, "*")
	}
	sub := ""
	if _, name, ok := strings.Cut(resource, "/"); ok {
		sub = "*/" + name
	}
	return has(r.Verbs, verb) && has(r.APIGroups, group) &&
		(has(r.Resources, resource) || sub != "" && slices.Contains(r.Resources, sub))
}

// A holder is a subject and what it may do by bindings.
type holder struct {
	subject Subject
	allowed
	namespace string // "" for all
	binding   string // its kind and name, for people
	own       bool   // it is one of those that the API server makes, for a part of Kubernetes
}

// access reports who may claim scopes, and who can take what pods have.
func (i *inspection) access(ctx context.Context) {
	holders, err := i.holders(ctx)
	if err != nil {
		i.unseen("claims", err)
		if !errors.Is(err, errMany) {
			return
		}
	}
	i.claims(holders)
	i.commands(holders)
}

// holders reads roles and bindings: those of the cluster, and those in the namespaces of tasks.
func (i *inspection) holders(ctx context.Context) (holders []holder, err error) {
	roles := map[string]allowed{} // by namespace, "/" and name
	note := func(namespace, name string, rules []rbacv1.PolicyRule) {
		if a := allows(rules, i.minor); !a.none() {
			roles[namespace+"/"+name] = a
		}
	}
	bind := func(at *metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		key, kind := "/"+ref.Name, "ClusterRoleBinding "
		if at.Namespace != "" {
			kind = "RoleBinding " + at.Namespace + "/"
		}
		if ref.Kind == "Role" {
			key = at.Namespace + key
		}
		a, ok := roles[key]
		if !ok {
			return
		}
		if at.Namespace != "" {
			a.powers &^= kubelets | poses // nodes, users and groups are in no namespace
		}
		for _, s := range subjects {
			h := holder{subject: subjectOf(s), allowed: a, namespace: at.Namespace, binding: kind + at.Name}
			if at.Namespace != "" && at.Name == claimer && ref.Kind == "ClusterRole" && ref.Name == claimer {
				i.chart[h.subject] = true
			}
			h.own = at.Labels["kubernetes.io/bootstrapping"] == "rbac-defaults" &&
				strings.HasPrefix(at.Name, "system:") && h.subject.ofKubernetes()
			if !h.none() {
				holders = append(holders, h)
			}
		}
	}
	every := metav1.ListOptions{}
	err = each(ctx, i.client, "", every, kubeapi.ClusterRoles.List, func(l *rbacv1.ClusterRoleList) int {
		for n := range l.Items {
			note("", l.Items[n].Name, l.Items[n].Rules)
		}
		return len(l.Items)
	})
	if err == nil {
		err = each(ctx, i.client, "", every, kubeapi.ClusterRoleBindings.List,
			func(l *rbacv1.ClusterRoleBindingList) int {
				for n := range l.Items {
					b := &l.Items[n]
					bind(&b.ObjectMeta, b.RoleRef, b.Subjects)
				}
				return len(l.Items)
			})
	}
	for _, namespace := range i.tasks {
		if err == nil {
			err = each(ctx, i.client, namespace, every, kubeapi.Roles.List, func(l *rbacv1.RoleList) int {
				for n := range l.Items {
					note(namespace, l.Items[n].Name, l.Items[n].Rules)
				}
				return len(l.Items)
			})
		}
		if err == nil {
			err = each(ctx, i.client, namespace, every, kubeapi.RoleBindings.List, func(l *rbacv1.RoleBindingList) int {
				for n := range l.Items {
					b := &l.Items[n]
					bind(&b.ObjectMeta, b.RoleRef, b.Subjects)
				}
				return len(l.Items)
			})
		}
	}
	return holders, err
}

// claimer is the name of the chart's role for those that claim every scope, and of its bindings.
const claimer = "inject-claimer"

// where says in which namespaces of tasks a holder holds something.
func where(namespaces []string) string {
	if slices.Contains(namespaces, "") {
		return "in every namespace"
	}
	return in(namespaces)
}

// said is what is said of a holder: what it may do, then where it may, then why that matters.
type said struct {
	level           Level
	text, why, hint string
}

// merged are the holders with the same subject of which the same is said, as one line.
type merged struct {
	said

	namespaces, bindings []string
}

// lines merges findings of holders. say returns what is said of one, with the text "" for nothing.
func (i *inspection) lines(check string, holders []holder, say func(h *holder) said) {
	at := map[string]*merged{}
	var order []*merged
	for n := range holders {
		h := &holders[n]
		one := say(h)
		if one.text == "" {
			continue
		}
		one.text = h.subject.String() + " " + one.text
		key := fmt.Sprint(one.level, one.text, one.why)
		if at[key] == nil {
			at[key] = &merged{said: one}
			order = append(order, at[key])
		}
		at[key].namespaces = append(at[key].namespaces, h.namespace)
		at[key].bindings = append(at[key].bindings, h.binding)
	}
	slices.SortStableFunc(order, func(a, b *merged) int {
		return cmp.Or(cmp.Compare(b.level, a.level), strings.Compare(a.text, b.text))
	})
	for n, m := range order {
		if n == maxLines {
			i.found(check, order[n].level, "take away the roles of those above, and run this again", "and %d more",
				len(order)-n)
			return
		}
		i.found(check, m.level, m.hint, "%s %s (%s)%s", m.text, where(m.namespaces), some(m.bindings), m.why)
	}
}

// maxLines is how many lines a check has at most.
const maxLines = 50

// claims reports who may claim which scopes.
func (i *inspection) claims(holders []holder) {
	i.lines("claims", holders, func(h *holder) said {
		if h.scopes == nil || h.powers&all != 0 {
			return said{}
		}
		text, every := "may claim every scope", slices.Contains(h.scopes, "")
		if !every {
			text = "may claim " + some(h.scopes)
		}
		switch place := i.inside(h.subject); {
		case place != "":
			return said{Failure, text, ": it " + place, move}
		case every && !i.mayClaimAll(h):
			return said{
				Warning, text, ": it is no claimer of the chart",
				"if it is of Flyte or an operator, add it to claimers in the chart's values; else delete the binding",
			}
		}
		return said{OK, text, "", ""}
	})
	i.found("claims", OK, "", "are listed as RBAC has them: a webhook authorizer, or the IAM of a cloud, may let "+
		"others claim, of whom --subject asks the API server one by one")
}

const move = "move it to another namespace, or delete the binding"

// inside says how users of a namespace of tasks can be that subject, or "".
func (i *inspection) inside(s Subject) string {
	const of = ", where each user with the role edit can act as it"
	switch {
	case s.Kind == Account && slices.Contains(i.tasks, s.Namespace):
		return "is in a namespace of tasks" + of
	case s.Kind != Group:
		return ""
	case s.Name == "system:serviceaccounts" || s.Name == "system:authenticated" || s.Name == "system:unauthenticated":
		return "has the accounts of the namespaces of tasks in it"
	}
	if name, ok := strings.CutPrefix(s.Name, "system:serviceaccounts:"); ok && slices.Contains(i.tasks, name) {
		return "has the accounts of a namespace of tasks in it"
	}
	return ""
}

// mayClaimAll reports whether the chart lets the holder claim every scope.
func (i *inspection) mayClaimAll(h *holder) bool {
	if h.own || i.chart[h.subject] && (!i.known || h.subject.ofKubernetes()) {
		return true
	}
	for _, a := range i.Config.Claimers {
		if h.subject == (Subject{Kind: Account, Namespace: a.Namespace, Name: a.Name}) {
			return true
		}
	}
	return false
}

// commands reports who can take what a pod has.
func (i *inspection) commands(holders []holder) {
	own := map[string]bool{}
	i.lines("access", holders, func(h *holder) said {
		if h.powers&all != 0 {
			const text = "may do everything"
			if place := i.inside(h.subject); place != "" {
				return said{Failure, text, ": it " + place, move}
			}
			if h.subject.administrator() {
				return said{OK, text, "", ""}
			}
			return said{Warning, text, ", so may claim every scope", "give it a role with what it needs"}
		}
		powers := h.powers
		if h.own {
			if powers != 0 {
				own[h.subject.String()] = true
			}
			return said{}
		}
		stopped := len(i.tasks) > 0 && !slices.ContainsFunc(i.tasks, func(name string) bool {
			return (h.namespace == "" || h.namespace == name) && !i.refusesCommands(name)
		})
		if stopped {
			powers &^= runs | attaches | forwards
		}
		if powers == 0 {
			return said{}
		}
		text := "may " + powers.String()
		switch {
		case powers&kubelets != 0:
			return said{Warning, text, ", so reads what tasks have", "take the verbs on nodes/proxy away"}
		case powers&(runs|attaches|forwards) != 0:
			return said{
				Warning, text, ", so reads what tasks have",
				"take the verbs away, or set policies.exec to true in the chart's values",
			}
		case powers&poses != 0, h.namespace == "":
			return said{Warning, text, ", so can act as a claimer", "bind the role in the namespaces that need it"}
		}
		return said{OK, text, "", ""}
	})
	if len(own) > 0 {
		i.found("access", OK, "", "%s of Kubernetes itself by its default roles, such as controllers and nodes",
			counted(len(own), "user"))
	}
}
