// Package policy decides what an identity may do: manage secrets, list them, and resolve
// those of one task scope. The first rule of the policy file that matches the identity
// decides; if none matches, nothing is allowed. It also has the quotas of scopes, which hold
// for every identity.
//
// The identity (a [Subject]) has been authenticated by package identity, and package serve
// acts on the decision. Claims in a request are never part of a decision. The format for
// operators is docs/reference/policy.md.
package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/watch"
	"inject/resolver/store"
)

// A Subject is an authenticated identity.
type Subject interface {
	// Attribute returns the values of an attribute of the policy file (spiffe, dns,
	// issuer, subject, audience, token, claim.NAME, kubernetes.NAME), or nil if the subject
	// does not have it. The server has verified each value. kubernetes.declared has the
	// keys that the subject's task declares.
	Attribute(name string) []string
}

// A Verb is a group of operations that a rule allows.
type Verb int

// The verbs.
const (
	Manage  Verb = iota // create, update, delete and import
	List                // get and list: names, never values
	Resolve             // values, as a task
)

// String returns the field of v in the policy file.
func (v Verb) String() string {
	switch v {
	case Manage:
		return "manage"
	case List:
		return "list"
	case Resolve:
		return "resolve"
	}
	return fmt.Sprintf("Verb(%d)", int(v))
}

// A Policy is a compiled policy file. The zero Policy allows nothing. It is immutable, so
// goroutines may share it.
type Policy struct {
	rules      []*rule
	attributes []string // every attribute in a rule
	quotas     []Quota
}

type rule struct {
	name     string
	identity []matcher
	scopes   [Resolve][]scopes // of Manage and List
	resolve  *task
	all      bool // allows everything
}

// A matcher is one attribute of a rule's identity.
type matcher struct {
	attribute int // in Policy.attributes
	pattern   pattern
	captures  bool
}

// scopes are the scopes at which a verb is allowed.
type scopes struct{ org, domain, project level }

// match reports whether at is one of s. c may be nil if s has no captures.
func (s *scopes) match(at secret.Scope, c *captured) bool {
	return s.org.match(at.Org, c) && s.domain.match(at.Domain, c) && s.project.match(at.Project, c)
}

// A task is the scope and the keys that a rule lets an identity resolve.
type task struct {
	scopes

	keys map[string]bool // nil: all
	// declared limits keys to those that the subject's task declares, and also adds keys to them.
	declared bool
	also     map[string]bool
}

// declaredKeys is the attribute with the keys that a subject's task declares.
const declaredKeys = "kubernetes.declared"

// maxCaptures is how many captures a rule may have: one for each level, and one more. It is
// fixed so that a Grant can hold them without an allocation.
const maxCaptures = 4

// captured are the texts of a rule's captures.
type captured [maxCaptures]string

// For returns the grant of the first rule that matches s, or the zero Grant. The time is
// linear in the number of rules and in the length of the attributes.
func (p *Policy) For(s Subject) Grant {
	var few [16][]string // avoids an allocation for up to 16 attributes
	values := few[:0]
	for _, name := range p.attributes {
		values = append(values, s.Attribute(name))
	}
	for _, r := range p.rules {
		g, ok := r.match(values)
		if !ok {
			continue
		}
		if r.resolve != nil && r.resolve.declared {
			g.declared = &declared{map[string]bool{}}
			for _, key := range s.Attribute(declaredKeys) {
				g.declared.keys[key] = true
			}
		}
		return g
	}
	return Grant{}
}

// Claims returns the claims that the rules match, each as an attribute of a [Subject].
func (p *Policy) Claims() []string {
	var claims []string
	for _, name := range p.attributes {
		if strings.HasPrefix(name, "claim.") {
			claims = append(claims, name)
		}
	}
	return claims
}

func (r *rule) match(values [][]string) (Grant, bool) {
	g := Grant{rule: r}
	for i := range r.identity {
		if m := &r.identity[i]; !m.match(values[m.attribute], &g.captured) {
			return Grant{}, false
		}
	}
	if t := r.resolve; t != nil {
		g.task = secret.Scope{
			Org: t.org.text(&g.captured), Domain: t.domain.text(&g.captured),
			Project: t.project.text(&g.captured),
		}
		if g.task.Validate() != nil { // a capture with the text around it may be an invalid name
			return Grant{}, false
		}
	}
	return g, true
}

// match reports whether one of values matches. If several match and capture different texts,
// it returns false, because the scope of the identity must not depend on their order.
func (m *matcher) match(values []string, c *captured) bool {
	if !m.captures {
		for _, v := range values {
			if m.pattern.match(v, nil) {
				return true
			}
		}
		return false
	}
	found := false
	for _, v := range values {
		attempt := *c
		switch {
		case !m.pattern.match(v, &attempt):
		case found && attempt != *c:
			return false
		default:
			*c, found = attempt, true
		}
	}
	return found
}

// A Grant holds the permissions of one identity. The zero Grant allows nothing. It is
// immutable, so goroutines may share it.
type Grant struct {
	rule     *rule
	captured captured
	task     secret.Scope
	declared *declared // of a rule that limits keys to these
}

// declared are the keys that the task of an identity declares.
type declared struct{ keys map[string]bool }

var everything = &rule{name: "everything", all: true}

// Everything returns a grant that allows everything, for a server without a policy, such as
// one for development. Its Rule is "everything". org is that of a task that names none.
func Everything(org string) Grant { return Grant{rule: everything, task: secret.Scope{Org: org}} }

// Rule returns the name of the rule that matched, for the audit log, or "" if none did.
func (g Grant) Rule() string {
	if g.rule == nil {
		return ""
	}
	return g.rule.name
}

// May reports whether v is allowed at exactly the scope at: for Manage and List the scope
// where a secret is stored, for Resolve that of the task. It is false for an invalid scope.
func (g Grant) May(v Verb, at secret.Scope) bool {
	if g.rule == nil || at.Validate() != nil {
		return false
	}
	switch v {
	case Resolve:
		return g.rule.all || g.task == at // without resolve, g.task is the zero scope, which is never valid
	case Manage, List:
		if g.rule.all {
			return true
		}
		for i := range g.rule.scopes[v] {
			if g.rule.scopes[v][i].match(at, &g.captured) {
				return true
			}
		}
	}
	return false
}

// MayAny reports whether v is allowed at any scope that f selects. With it a list is denied
// if the identity may see nothing of it, instead of being empty. The listed secrets must
// still be checked with May.
func (g Grant) MayAny(v Verb, f store.Filter) bool {
	probe := secret.Scope(f)
	if probe.Org == "" {
		probe.Org = secret.DefaultOrg // only for Validate: in a filter the org may be empty
	}
	if g.rule == nil || probe.Validate() != nil {
		return false
	}
	switch v {
	case Resolve:
		return g.rule.all || g.rule.resolve != nil && f.Match(secret.Ref{Scope: g.task})
	case Manage, List:
		if g.rule.all {
			return true
		}
		for i := range g.rule.scopes[v] {
			s := &g.rule.scopes[v][i]
			if (f.Org == "" || s.org.match(f.Org, &g.captured)) &&
				(f.Domain == "" || s.domain.match(f.Domain, &g.captured)) &&
				(f.Project == "" || s.project.match(f.Project, &g.captured)) {
				return true
			}
		}
	}
	return false
}

// Bind returns the scope of the task as which the identity resolves. asked is the scope in
// the request. It is never trusted: it is only compared, so that a task with wrong settings
// gets an error instead of secrets of another scope. A zero asked matches, and so does an
// empty Org.
//
// The error wraps [secret.ErrDenied] if the identity may not resolve at all, or not at the
// scope asked. The grant of [Everything] has no scope of its own, so Bind returns asked, with
// the org of Everything for an empty Org; the error for an invalid one wraps
// [secret.ErrInvalid].
func (g Grant) Bind(asked secret.Scope) (secret.Scope, error) {
	switch {
	case g.rule != nil && g.rule.all:
		if asked.Org == "" {
			asked.Org = g.task.Org
		}
		if err := asked.Validate(); err != nil {
			return secret.Scope{}, err
		}
		return asked, nil
	case g.rule == nil || g.rule.resolve == nil:
		return secret.Scope{}, secret.WithHint(
			fmt.Errorf("%w: this identity may not resolve secrets", secret.ErrDenied),
			"the first rule of the policy that matches this identity must have resolve",
		)
	case asked == secret.Scope{}:
		return g.task, nil
	}
	if asked.Org == "" {
		asked.Org = g.task.Org
	}
	if asked != g.task {
		return secret.Scope{}, secret.WithHint(
			fmt.Errorf("%w: this identity resolves as a task of %s and of no other scope", secret.ErrDenied, g.task),
			"leave the scope out of the request, or give%s", g.task.Flags())
	}
	return g.task, nil
}

// MayResolve reports whether the identity may resolve the secret key, within the ladder of
// the scope that Bind returns.
func (g Grant) MayResolve(key string) bool {
	switch {
	case g.rule == nil || secret.ValidKey(key) != nil:
		return false
	case g.rule.all:
		return true
	case g.rule.resolve == nil:
		return false
	}
	t := g.rule.resolve
	return t.also[key] || (t.keys == nil || t.keys[key]) && (!t.declared || g.declared.keys[key])
}

// A File follows the changes of a policy file. Current is the policy in force; after a change
// that cannot be read or parsed it is the previous one, and Err returns why.
type File = watch.Watched[*Policy]

// Open reads the policy file at path as [Parse] does with org, and follows its changes until ctx
// ends, as [watch.Load] does. It returns an error if the file cannot be read or is invalid; later
// such errors go to log and to the File's Err.
func Open(ctx context.Context, path, org string, log hclog.Logger) (*File, error) {
	parse := func(text []byte) (*Policy, error) { return Parse(text, org) }
	return watch.Load(ctx, path, parse, log)
}
