package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"inject/internal/spelling"
	"inject/resolver/secret"
	"inject/resolver/serve/policy"
	"inject/resolver/store"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check or try a policy; alone it prints the JSON Schema of a policy file, for editors",
		Long: `policy prints the JSON Schema of a policy file, for editors. Its verbs read a policy
file as serve does, and need no server.`,
		Args: knownVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policy.Schema())
			return err
		},
	}
	a.settings.AddFlags(cmd)
	check := &cobra.Command{
		Use:     "check FILE",
		Short:   "Check a policy file",
		Long:    `check reads a policy file as serve does, and reports every mistake with its line.`,
		Example: "  injectd policy check policy.yaml",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := a.readPolicy(args[0]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is valid\n", args[0])
			return err
		},
	}
	a.settings.AddFlags(check, &a.set.Org, &a.set.Orgs)
	may := &cobra.Command{
		Use:   "may [flags] IDENTITY VERB SCOPE [KEY]",
		Short: "Tell what a policy allows an identity",
		Long: `may tells whether the policy allows an identity something, and by which rule. It exits
with 1 if it does not.

IDENTITY is the attributes that the policy can match: NAME=VALUE, with commas between
several. VERB is manage, list or resolve. SCOPE is PROJECT/DOMAIN; an empty one of the two
is a wider scope: PROJECT/ is the project in every domain, /DOMAIN the domain with every
project, and / the org. ORG: before it names another org than --org. For resolve, SCOPE is
that of the task, and KEY the secret that it asks for.`,
		Example: `  injectd policy may --policy policy.yaml \
      spiffe=spiffe://example.org/user/alice manage p1/development
  injectd policy may --policy policy.yaml \
      issuer=https://ci.example.org,claim.repository=acme/p1 \
      resolve p1/development MY_SECRET_KEY`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 3 && len(args) != 4 {
				return secret.WithHint(fmt.Errorf("%w: %s takes an identity, a verb, a scope and perhaps a key",
					secret.ErrInvalid, cmd.CommandPath()), "%s", cmd.UseLine())
			}
			answer, err := a.may(args)
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), answer)
			}
			return err
		},
	}
	a.settings.AddFlags(may, &a.set.Try, &a.set.Org, &a.set.Orgs)
	cmd.AddCommand(check, may)
	return cmd
}

func (a *app) readPolicy(path string) (*policy.Policy, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator's file
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secret.ErrInvalid, err)
	}
	p, err := policy.Parse(text, a.set.Org.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// may answers an allowed question. Its error says why it is denied, or what is wrong with the
// question.
func (a *app) may(args []string) (string, error) {
	var errs []error
	if a.set.Try.Policy == "" {
		errs = append(errs, secret.WithHint(fmt.Errorf("%w: --policy is missing", secret.ErrInvalid),
			"give the policy file, as serve gets it"))
	}
	who, err := parseSubject(args[0])
	errs = append(errs, err)
	verbs := []policy.Verb{policy.Manage, policy.List, policy.Resolve}
	at := slices.IndexFunc(verbs, func(v policy.Verb) bool { return v.String() == args[1] })
	if at < 0 {
		errs = append(errs, secret.WithHint(fmt.Errorf("%w: the verb is manage, list or resolve", secret.ErrInvalid),
			"create, update, delete and import are manage; get is list"))
	}
	scope, err := a.parseScope(args[2])
	errs = append(errs, err)
	key := ""
	if len(args) == 4 {
		key = args[3]
		errs = append(errs, secret.ValidKey(key))
	}
	var p *policy.Policy
	if a.set.Try.Policy != "" {
		p, err = a.readPolicy(a.set.Try.Policy)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	grant, verb := p.For(who), verbs[at]
	what := fmt.Sprintf("%v at %v", verb, scope)
	switch {
	case grant.Rule() == "":
		return "", secret.WithHint(fmt.Errorf("%w: no rule matches this identity", secret.ErrDenied),
			"all attributes that a rule names must match; claims are claim.NAME=VALUE")
	case !grant.May(verb, scope):
		err := fmt.Errorf("%w: the rule %q does not allow it to %s", secret.ErrDenied, grant.Rule(), what)
		if grant.MayAny(policy.Resolve, store.Filter{}) && verb == policy.Resolve {
			if task, bound := grant.Bind(secret.Scope{}); bound == nil {
				return "", secret.WithHint(err, "it resolves as a task of %v", task)
			}
		}
		return "", secret.WithHint(err, "the first rule that matches decides, and no other")
	case key != "" && verb == policy.Resolve && !grant.MayResolve(key):
		return "", secret.WithHint(fmt.Errorf("%w: the rule %q does not allow it to %s the secret %s", secret.ErrDenied,
			grant.Rule(), what, key), "its keys do not have it, or with declared the identity's kubernetes.declared")
	}
	answer := fmt.Sprintf("allowed by the rule %q: %s", grant.Rule(), what)
	if q := p.Quota(scope); q != nil && verb == policy.Manage {
		answer += fmt.Sprintf("\nthe quota %q allows %v there", q.Name, q)
	}
	return answer, nil
}

// subject is an identity that was typed.
type subject map[string][]string

func (s subject) Attribute(name string) []string { return s[name] }

// parseSubject parses NAME=VALUE,…; a comma that no attribute follows belongs to the value.
func parseSubject(text string) (subject, error) {
	names := []string{
		"spiffe", "dns", "issuer", "subject", "audience", "token", "kubernetes.namespace", "kubernetes.serviceaccount",
		"kubernetes.pod", "kubernetes.node", "kubernetes.project", "kubernetes.domain", "kubernetes.declared",
	}
	s := subject{}
	last := ""
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		known := slices.Contains(names, name)
		for _, prefix := range []string{"claim.", "kubernetes.label."} {
			known = known || strings.HasPrefix(name, prefix) && name != prefix
		}
		switch {
		case ok && known && value != "":
			last = name
			s[name] = append(s[name], value)
		case last == "" || ok && (value == "" || spelling.Nearest(name, names) != ""):
			hint := "NAME is spiffe, dns, issuer, subject, audience, token, claim.NAME, kubernetes.label.KEY, or " +
				"kubernetes. and namespace, serviceaccount, pod, node, project, domain or declared"
			if near := spelling.Nearest(name, names); ok && near != "" {
				hint = "did you mean " + near + "=…; " + hint
			}
			return nil, secret.WithHint(fmt.Errorf("%w: the identity is NAME=VALUE, with commas between several",
				secret.ErrInvalid), "%s", hint)
		default:
			values := s[last]
			values[len(values)-1] += "," + part
		}
	}
	return s, nil
}

// parseScope parses [ORG:][PROJECT]/[DOMAIN].
func (a *app) parseScope(text string) (secret.Scope, error) {
	scope := secret.Scope{Org: a.set.Org.Name}
	if org, rest, ok := strings.Cut(text, ":"); ok {
		scope.Org, text = org, rest
	}
	project, domain, ok := strings.Cut(text, "/")
	scope.Project, scope.Domain = project, domain
	if !ok {
		return scope, secret.WithHint(fmt.Errorf("%w: the scope is PROJECT/DOMAIN", secret.ErrInvalid),
			"p1/development, p1/ for every domain, /development for every project, / for the org")
	}
	return scope, scope.Validate()
}
