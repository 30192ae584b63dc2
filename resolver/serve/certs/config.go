package certs

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"inject/internal/strictyaml"
	"inject/resolver/secret"
	"inject/resolver/serve/watch"
)

// A Config says which objects are kept, and how long certificates last. It is immutable.
type Config struct {
	// Given is true if others make the certificates. Then their Secrets are read and never written, and
	// the lifetimes are zero.
	Given bool
	// Namespace has the Secrets of certificates.
	Namespace string
	// TaskNamespaces get the ConfigMap of the authorities, as Namespace does, and the Secret of registries.
	TaskNamespaces []string
	// ConfigMap is the name of that of the authorities. The policies let only injectd's account change it.
	ConfigMap string
	// Server is the certificate of injectd, Webhook that of the webhook; without a Secret there is no
	// webhook.
	Server, Webhook Leaf
	// PullSecret is the name of the Secret of registries, "" for none.
	PullSecret string
	// PullOwner is the name of a Role of each task namespace. Where it is deleted, Kubernetes deletes the Secret of
	// registries, too. "" for none: then the Secret stays.
	PullOwner string

	// LeafTime is how long a certificate of a server lasts, and RenewTime its age when it is renewed.
	LeafTime, RenewTime time.Duration
	// AuthorityTime is how long an authority lasts, and PublishTime how long a new one is published before
	// it signs.
	AuthorityTime, PublishTime time.Duration
}

// A Leaf is the certificate of a server.
type Leaf struct {
	Secret string   // its name
	Names  []string // the DNS names of the server
	// Configuration is the MutatingWebhookConfiguration that gets the authorities of the webhook.
	Configuration string
}

// Load reads the file at path, and follows its changes as [watch.Load] does.
func Load(ctx context.Context, path string, log hclog.Logger) (*watch.Watched[*Config], error) {
	file, err := watch.Load(ctx, path, Parse, log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	return file, nil
}

// maxEach is how many names and namespaces a file has at most.
const maxEach = 1000

var (
	// label is a name of a namespace, host a DNS name of a server, named the name of another object.
	label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	host  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
	named = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
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
	got, ok := n.Needed([]string{"version", "source", "namespace", "taskNamespaces", "configMap", "server"},
		"webhook", "pullSecret", "pullOwner", "lifetimes")
	if !ok {
		return
	}
	if version, given := got["version"]; given {
		version.Version()
	}
	if source, given := got["source"]; given {
		switch text, ok := source.Text(); {
		case !ok:
		case text == "secret":
			c.Given = true
		case text != "self":
			source.Fail("neither self nor secret")
		}
	}
	c.Namespace = word(got, "namespace", label, "the name of a namespace")
	c.TaskNamespaces = words(got, "taskNamespaces", label, "the name of a namespace")
	c.ConfigMap = word(got, "configMap", named, "the name of a ConfigMap")
	c.Server = leaf(got, "server", c.Given)
	c.Webhook = leaf(got, "webhook", c.Given)
	c.PullSecret = word(got, "pullSecret", named, "the name of a Secret")
	if c.PullOwner = word(got, "pullOwner", named, "the name of a Role"); c.PullOwner != "" && c.PullSecret == "" {
		got["pullOwner"].Fail("there is no pullSecret that it could own")
	}
	lifetimes, given := got["lifetimes"]
	switch {
	case given && c.Given:
		lifetimes.Fail("with source secret the certificates are not injectd's: leave lifetimes out")
	case given:
		c.lifetimes(lifetimes)
	case !c.Given:
		n.Below("lifetimes").Fail("missing")
	}
}

func (c *Config) lifetimes(n strictyaml.Node) {
	before := n.Count()
	got, _ := n.Needed([]string{"leaf", "renew", "authority", "publish"})
	for name, to := range map[string]*time.Duration{
		"leaf": &c.LeafTime, "renew": &c.RenewTime, "authority": &c.AuthorityTime, "publish": &c.PublishTime,
	} {
		value, given := got[name]
		if !given {
			continue
		}
		if text, ok := value.Text(); ok {
			d, err := time.ParseDuration(text)
			if err != nil || d < time.Second || d > 100*365*24*time.Hour {
				value.Fail("not a time of 1s to 100 years, such as 720h")
			}
			*to = d
		}
	}
	if n.Count() > before {
		return
	}
	if c.RenewTime >= c.LeafTime {
		got["renew"].Fail("not less than leaf: a certificate would end before it is renewed")
	}
	if c.AuthorityTime < 2*c.replace() {
		got["authority"].Fail("less than 2 leaf + 4 publish: it would end before the next one signs")
	}
}

// replace is how long before its end an authority has a successor, at the latest: so long that it can sign
// a last certificate while the new one is being published.
func (c *Config) replace() time.Duration { return c.LeafTime + 2*c.PublishTime }

func leaf(of map[string]strictyaml.Node, name string, given bool) (l Leaf) {
	n, ok := of[name]
	if !ok {
		return l
	}
	needed := []string{"secret"}
	if !given {
		needed = append(needed, "names")
	}
	if name == "webhook" {
		needed = append(needed, "configuration")
	}
	got, ok := n.Needed(needed)
	if !ok {
		return l
	}
	l.Secret = word(got, "secret", named, "the name of a Secret")
	l.Configuration = word(got, "configuration", named, "the name of a MutatingWebhookConfiguration")
	if l.Names = words(got, "names", host, "a DNS name in small letters"); l.Names == nil && !given {
		n.Fail("no names: no client would accept its certificate")
	}
	return l
}

// word returns the text of a field, which must match form, and "" if there is no such field.
func word(of map[string]strictyaml.Node, name string, form *regexp.Regexp, what string) string {
	n, given := of[name]
	if !given {
		return ""
	}
	return n.Matching(form, what)
}

// words returns the texts of a list, each once.
func words(of map[string]strictyaml.Node, name string, form *regexp.Regexp, what string) (all []string) {
	n, given := of[name]
	if !given {
		return nil
	}
	items, _ := n.List()
	if len(items) > maxEach {
		n.Fail("over %d items", maxEach)
		return nil
	}
	for _, item := range items {
		text := item.Matching(form, what)
		if slices.Contains(all, text) {
			item.Fail("given twice")
		}
		all = append(all, text)
	}
	return all
}
