package evidence

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// A Config is what the chart has rendered besides the policies themselves. It is immutable.
type Config struct {
	// Organization is the label organization of all pods.
	Organization string
	// TaskNamespaces are those whose pods are served; the policies bind these.
	TaskNamespaces []string
	// Claimers are the accounts that may claim every scope.
	Claimers []Account
	// Policies are all that must be in force.
	Policies []Policy
}

// An Account is a service account.
type Account struct{ Namespace, Name string }

// String returns NAMESPACE/NAME.
func (a Account) String() string { return a.Namespace + "/" + a.Name }

// A Policy is a ValidatingAdmissionPolicy, or with Mutating a MutatingAdmissionPolicy, and its
// binding. Both names end in a digest of the object's spec.
type Policy struct {
	Name     string
	Binding  string
	Mutating bool
}

// Base returns the name without its digest, such as inject-claims.
func (p Policy) Base() string { return base(p.Name) }

func base(name string) string { return name[:max(strings.LastIndexByte(name, '-'), 0)] }

// Serves reports whether pods of a namespace are served.
func (c *Config) Serves(namespace string) bool { return slices.Contains(c.TaskNamespaces, namespace) }

// Has reports whether there is a policy with this name without its digest.
func (c *Config) Has(base string) bool {
	return slices.ContainsFunc(c.Policies, func(p Policy) bool { return p.Base() == base })
}

// Load reads the file at path, and follows its changes as [watch.Load] does: an upgrade of the chart
// makes other policies.
func Load(ctx context.Context, path string, log hclog.Logger) (*watch.Watched[*Config], error) {
	file, err := watch.Load(ctx, path, Parse, log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return file, nil
}

// LoadOnce reads the file at path.
func LoadOnce(path string) (*Config, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	c, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// needed are the policies without which nothing vouches for a pod.
var needed = []string{"inject-accounts", "inject-claims", "inject-tokens", "inject-workloads"}

// hosts is the policy that keeps pods from the node that they run on.
const hosts = "inject-hosts"

// maxEach is how many namespaces, claimers or policies a file has at most.
const maxEach = 1000

var (
	// named is the name of a policy or a binding.
	named = regexp.MustCompile(`^inject-[a-z][a-z-]{0,40}-[0-9a-f]{16}$`)
	// dns is the name of a namespace; accountName that of a service account.
	dns         = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	accountName = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	labelValue  = regexp.MustCompile(`^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
)

// Parse reads a file. The error wraps [secret.ErrInvalid], and names the line and the field of every
// mistake.
func Parse(text []byte) (*Config, error) {
	c := &Config{}
	if err := strictyaml.Read(text, c.read); err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return c, nil
}

func (c *Config) read(n strictyaml.Node) {
	got, ok := n.Needed([]string{"version", "organization", "taskNamespaces", "claimers", "policies"})
	if !ok {
		return
	}
	if version, given := got["version"]; given {
		version.Version()
	}
	if organization, given := got["organization"]; given {
		c.Organization = organization.Matching(labelValue, "a label's value")
	}
	for _, item := range items(got, "taskNamespaces") {
		name := item.Matching(dns, "the name of a namespace")
		if c.Serves(name) && name != "" {
			item.Fail("given twice")
		}
		c.TaskNamespaces = append(c.TaskNamespaces, name)
	}
	for _, item := range items(got, "claimers") {
		c.claimer(item)
	}
	for _, item := range items(got, "policies") {
		c.policy(item)
	}
	policies, given := got["policies"]
	if !given || n.Count() > 0 {
		return
	}
	for _, base := range needed {
		if !c.Has(base) {
			policies.Fail("%s is missing: without it nothing vouches for a pod", base)
		}
	}
}

// items returns the items of a list, which may be absent.
func items(got map[string]strictyaml.Node, name string) []strictyaml.Node {
	n, given := got[name]
	if !given {
		return nil
	}
	all, _ := n.List()
	if len(all) > maxEach {
		n.Fail("over %d items", maxEach)
		return nil
	}
	return all
}

func (c *Config) claimer(n strictyaml.Node) {
	got, ok := n.Needed([]string{"namespace", "name"})
	if !ok {
		return
	}
	var a Account
	if namespace, given := got["namespace"]; given {
		a.Namespace = namespace.Matching(dns, "the name of a namespace")
	}
	if name, given := got["name"]; given {
		a.Name = name.Matching(accountName, "the name of a service account")
	}
	c.Claimers = append(c.Claimers, a)
}

func (c *Config) policy(n strictyaml.Node) {
	got, ok := n.Needed([]string{"name", "binding"}, "kind")
	if !ok {
		return
	}
	var p Policy
	const form = "a name of inject-, letters, and 16 hexadecimal digits"
	if name, given := got["name"]; given {
		p.Name = name.Matching(named, form)
	}
	if binding, given := got["binding"]; given {
		p.Binding = binding.Matching(named, form)
	}
	if kind, given := got["kind"]; given {
		switch text, ok := kind.Text(); {
		case !ok:
		case text == "Mutating":
			p.Mutating = true
		case text != "Validating":
			kind.Fail("neither Validating nor Mutating")
		}
	}
	switch {
	case p.Name == "" || p.Binding == "":
	case base(p.Name) != base(p.Binding):
		n.Fail("the policy and its binding differ in more than their digests")
	case c.Has(p.Base()):
		n.Fail("%s is given twice", p.Base())
	}
	c.Policies = append(c.Policies, p)
}
