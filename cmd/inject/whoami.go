package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"inject/cli"
	"inject/internal/printable"
	"inject/resolver/rpc"
	"inject/resolver/secret"
	"inject/resolver/store"
)

func whoamiCommand(app *app) *cobra.Command { return knownCommand(app, "whoami") }

func statusCommand(app *app) *cobra.Command { return knownCommand(app, "status") }

// knownCommand returns inject whoami, which is inject status, too: people look for either.
func knownCommand(a *app, name string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name + " [flags]",
		Short: "Show which store is asked, as whom, and what that caller may do",
		Long: name + ` shows the store that the other verbs use with the same flags and variables. It asks
a server as whom it knows the caller, and what the policy lets that caller do. A store
file or a folder knows no callers: what can read it may do everything.`,
		Example: `  inject ` + name + `
  inject ` + name + ` --store grpcs://example.org:8093 --token-file my.token`,
		Args: cli.NoArgs,
	}
	a.settings.AddFlags(cmd, &a.set.Known, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		known, err := a.whoami(cmd.Context())
		if err != nil {
			return err
		}
		if a.set.Known.Output == "text" {
			_, err = io.WriteString(a.stdout, known.text())
			return err
		}
		return printAs(a.stdout, a.set.Known.Output, known)
	}
	return cmd
}

// known is the answer of inject whoami.
type known struct {
	Store     string      `json:"store" yaml:"store"`
	Profile   string      `json:"profile,omitempty" yaml:"profile,omitempty"`
	Exists    *bool       `json:"exists,omitempty" yaml:"exists,omitempty"` // of a store file
	Key       string      `json:"key,omitempty" yaml:"key,omitempty"`       // what opens a store file
	Login     string      `json:"login,omitempty" yaml:"login,omitempty"`   // the file of a login that is used
	Token     string      `json:"token,omitempty" yaml:"token,omitempty"`   // the file of the pod's token
	Method    string      `json:"method,omitempty" yaml:"method,omitempty"`
	Name      string      `json:"name,omitempty" yaml:"name,omitempty"`
	Rule      string      `json:"rule,omitempty" yaml:"rule,omitempty"`
	May       []permitted `json:"may" yaml:"may"`
	Truncated bool        `json:"truncated,omitempty" yaml:"truncated,omitempty"`
}

type permitted struct {
	Verb    string   `json:"verb" yaml:"verb"` // everything, read, manage, list or resolve
	Org     string   `json:"organization,omitempty" yaml:"organization,omitempty"`
	Domain  string   `json:"domain,omitempty" yaml:"domain,omitempty"`
	Project string   `json:"project,omitempty" yaml:"project,omitempty"`
	Keys    []string `json:"keys,omitempty" yaml:"keys,omitempty"`
}

func (a *app) whoami(ctx context.Context) (*known, error) {
	u, err := a.storeURL()
	if err != nil {
		return nil, err
	}
	k := &known{Store: u.Redacted(), Profile: a.profile, May: []permitted{}}
	switch {
	case isServer(u):
		return k, a.askWho(ctx, u, k)
	case u.Scheme == store.SchemeDir:
		k.May = append(k.May, permitted{Verb: "read"})
		return k, nil
	}
	_, err = os.Stat(u.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", secret.ErrUnavailable, err)
	}
	exists := err == nil
	k.Exists = &exists
	k.May = append(k.May, permitted{Verb: "everything"})
	switch k.Key = a.set.Store.KeyFile; {
	case k.Key == "" && a.set.Keys.Key.Len() > 0:
		k.Key = "$" + keyVar
	case k.Key == "":
		k.Key, err = cli.UserPath(a.set.Found.ConfigHome, ".config", "key.txt")
	}
	return k, err
}

// askWho fills in what the server at u says.
func (a *app) askWho(ctx context.Context, u *url.URL, k *known) error {
	c, err := a.openServer(u)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // read only
	if keep, ok := a.keptLogin(u); ok {
		k.Login = keep.Path()
	}
	if a.set.Store.TokenFile == podToken {
		k.Token = podToken
	}
	return k.ask(ctx, c)
}

// ask fills in the answer of the server of c.
func (k *known) ask(ctx context.Context, c *rpc.Client) error {
	id, err := c.WhoAmI(ctx)
	if err != nil {
		return err
	}
	k.Method, k.Name, k.Rule, k.Truncated = id.Method, id.Name, id.Rule, id.Truncated
	if id.Everything {
		k.May = append(k.May, permitted{Verb: "everything"})
	}
	for _, p := range id.Permissions {
		k.May = append(k.May, permitted(p))
	}
	return nil
}

// text returns k for people. What a server said is made printable.
func (k *known) text() string {
	const limit = 300
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-6s %s\n", name, printable.Text(fmt.Sprintf(format, args...), limit))
	}
	line("store", "%s", k.Store)
	if k.Profile != "" {
		line("", "of the profile %s", k.Profile)
	}
	if k.Exists != nil {
		if !*k.Exists {
			line("", "does not exist yet: the first secret creates it")
		}
		line("key", "%s", k.Key)
	}
	if k.Login != "" {
		line("login", "%s", k.Login)
	}
	if k.Token != "" {
		line("token", "%s, of this pod", k.Token)
	}
	switch {
	case k.Method == "none":
		line("as", "%s: the server checks no credentials (--insecure)", k.Name)
	case k.Method != "":
		line("as", "%s %s", k.Method, k.Name)
	}
	if k.Rule != "" && k.Method != "none" {
		line("rule", "%s", k.Rule)
	}
	title := "may"
	for _, p := range k.May {
		line(title, "%s", p.text())
		title = ""
	}
	if k.Truncated {
		line("", "and more")
	}
	if len(k.May) == 0 {
		line("may", "nothing: no rule of the server's policy matches")
	}
	return b.String()
}

func (p permitted) text() string {
	switch p.Verb {
	case "everything":
		return p.Verb
	case "read":
		return "read everything; a folder is not changed by inject"
	}
	level := func(name, value string) string {
		if value == "*" {
			return "any " + name
		}
		if value == "" {
			return "no " + name
		}
		return name + " " + value
	}
	text := p.Verb + " at " + level("project", p.Project) + ", " + level("domain", p.Domain) + ", org " + p.Org
	if p.Verb == "resolve" {
		text = "resolve as a task of " + secret.Scope{Org: p.Org, Domain: p.Domain, Project: p.Project}.String()
	}
	if p.Keys != nil {
		text += ", the keys " + strings.Join(p.Keys, ", ")
	}
	return text
}
