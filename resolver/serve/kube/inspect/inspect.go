// Package inspect tells what in a cluster decides who gets the secrets of its tasks: which users may
// claim scopes and run commands in pods, whether the admission policies are in force, and what goes
// around them. It calls the API server and changes nothing. It is for people: a server decides by
// package evidence, which this package reports, too.
package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"inject/internal/printable"
	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/serve/kube/evidence"
)

// Options say which cluster is looked at, and what for.
type Options struct {
	// Kubeconfig and Context are as in [kubeapi.Options].
	Kubeconfig, Context string
	// Config is what the chart has rendered. It is nil if that is not known: then the policies and the
	// task namespaces are those that are found.
	Config *evidence.Config
	// TaskNamespaces are those of tasks, beside those of Config. If there are none, they are those
	// that the policies' bindings select.
	TaskNamespaces []string
	// Store is the namespace of the secrets, "" if the store is none.
	Store string
	// Subjects are users, groups and accounts of which the API server is asked what they may do.
	Subjects []Subject
}

// A Level says how much a finding matters.
type Level int

// The levels.
const (
	OK      Level = iota
	Warning       // may be meant, or could not be looked at
	Failure       // tasks' secrets are open to others, or pods are not served
)

// A Finding is one line of the result.
type Finding struct {
	Check string // a word that several findings share
	Level Level
	Text  string
	Hint  string // what to do next; "" if nothing is to be done
}

// maxCalls is how many calls of the API are under way at most.
const maxCalls = 8

// Run looks at the cluster. A call that this user may not perform is a finding of the level [Warning]
// that names the missing right. The error is of what keeps everything from being looked at: it wraps
// [secret.ErrInvalid] for options that lead nowhere.
func Run(ctx context.Context, o Options) ([]Finding, error) {
	cluster, err := kubeapi.Find(kubeapi.Options{Kubeconfig: o.Kubeconfig, Context: o.Context})
	if err != nil {
		return nil, err
	}
	client, err := cluster.Connect(maxCalls)
	if err != nil {
		return nil, err
	}
	defer client.Close() //nolint:errcheck // nothing was changed
	i := &inspection{Options: o, client: client, chart: map[Subject]bool{}}
	if err := i.server(ctx, cluster.String()); err != nil {
		return nil, err
	}
	i.places(ctx)
	i.policies(ctx)
	i.access(ctx)
	i.flyte()
	i.subjects(ctx)
	i.webhooks(ctx)
	i.older(ctx)
	i.nodes(ctx)
	i.encryption(ctx)
	return i.findings, nil
}

// An inspection is one run.
type inspection struct {
	Options

	client   *kubeapi.Client
	minor    int // of the API server's version
	tasks    []string
	labels   map[string]map[string]string // of the namespaces, by their names; nil if they are not known
	chart    map[Subject]bool             // those that the chart lets claim every scope
	unread   bool                         // whether the policies cannot be read
	report   *evidence.Report             // nil if the policies could not be read
	known    bool                         // whether Config was given
	left     []evidence.Policy            // those that are there with a younger one of the same name
	findings []Finding
}

func (i *inspection) found(check string, level Level, hint, format string, args ...any) {
	i.findings = append(i.findings, Finding{check, level, printable.Text(fmt.Sprintf(format, args...), maxText), hint})
}

// maxText is the length of the text of a finding, in bytes. The longest one names maxNodes nodes.
const maxText = 8000

// unseen notes that a check could not be made.
func (i *inspection) unseen(check string, err error) {
	switch right := kubeapi.Missing(err); {
	case right != "":
		i.found(check, Warning, "run this as a user with that right, such as an administrator of the cluster",
			"was not looked at: this user may not %s", right)
	case errors.Is(err, errMany):
		i.found(check, Warning, "", "was not looked at to its end: %v", err)
	default:
		i.found(check, Warning, cmp.Or(secret.Hint(err), "try again"), "was not looked at: %v", err)
	}
}

// oldest is the first minor version of Kubernetes 1 with these admission policies, and inherits the
// first with policies that change pods.
const (
	oldest   = 30
	inherits = 36
)

func (i *inspection) server(ctx context.Context, who string) error {
	version, err := i.client.Version(ctx)
	if err != nil {
		return err
	}
	if n, _ := fmt.Sscanf(version, "v1.%d", &i.minor); n != 1 || i.minor < oldest {
		i.found("kubernetes", Failure, "upgrade the cluster", "%s, as %s: the admission policies need v1.%d", version,
			who, oldest)
		return nil
	}
	i.found("kubernetes", OK, "", "%s, as %s", version, who)
	return nil
}

// maxObjects is how many objects of a kind are read, and maxPage how many by one call.
const (
	maxObjects = 20_000
	maxPage    = 250
)

// errMany is the error of a list that is too long to be read to its end.
var errMany = fmt.Errorf("only the first %d objects were read", maxObjects)

// each lists the objects of a kind, a page at a time. visit returns how many a page has.
func each[L metav1.ListInterface](
	ctx context.Context, c *kubeapi.Client, namespace string, o metav1.ListOptions,
	list func(context.Context, *kubeapi.Client, string, metav1.ListOptions) (L, error), visit func(L) int,
) error {
	o.Limit = maxPage
	for n := 0; ; {
		page, err := list(ctx, c, namespace, o)
		switch from := kubeapi.Continue(err); {
		case from != "" && from != o.Continue:
			o.Continue = from
			continue
		case kubeapi.IsTooLong(err) && o.Limit > 1:
			o.Limit /= 2
			continue
		case err != nil:
			return err
		}
		n += visit(page)
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return nil
		}
		if n >= maxObjects {
			return errMany
		}
	}
}

// maxNames is how many names a text has.
const maxNames = 10

// some returns names in order, maxNames at most, and how many more there are.
func some(names []string) string { return atMost(maxNames, names) }

// atMost is [some] with another number of names.
func atMost(limit int, names []string) string {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	more := ""
	if n := len(names) - limit; n > 0 {
		names, more = names[:limit], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ") + more
}

// in returns "in namespace a" or "in namespaces a, b".
func in(namespaces []string) string {
	word := "in namespace "
	if len(slices.Compact(slices.Sorted(slices.Values(namespaces)))) > 1 {
		word = "in namespaces "
	}
	return word + some(namespaces)
}

// counted returns "1 pod" or "2 pods".
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
