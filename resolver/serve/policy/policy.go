// Package policy says what an identity may do with the store service: manage secrets,
// list them, and resolve those of one task scope. The first rule of the policy file that
// matches the identity decides, and without one nothing is allowed.
//
// It stops at the decision: who the caller is was found out before (a [Subject]), and
// what a decision leads to is the server's. It never looks at what a request claims.
// docs/reference/policy.md is the format for operators.
package policy

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-hclog"

	"inject/resolver/secret"
	"inject/resolver/serve/watch"
	"inject/resolver/store"
)

// A Subject is who asks.
type Subject interface {
	// Attribute returns the values of the attribute called name, as in the policy file
	// (spiffe, dns, issuer, subject, audience, token, claim.NAME); none if the subject
	// has no such attribute. The server has verified each of them.
	Attribute(name string) []string
}

// A Verb is what is to be done.
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

// A Policy is what a policy file says, compiled. The zero Policy allows nothing. It does
// not change, so several goroutines may use it.
type Policy struct {
	rules      []*rule
	attributes []string // all that the rules ask for
}

type rule struct {
	name     string
	identity []matcher
	scopes   [Resolve][]scopes // of Manage and List
	resolve  *task
	all      bool // whatever is asked for
}

// A matcher is one attribute of a rule's identity.
type matcher struct {
	attribute int // in Policy.attributes
	pattern   pattern
	captures  bool
}

// scopes are those at which a verb is allowed.
type scopes struct{ org, domain, project level }

// A task is what a rule lets resolve.
type task struct {
	scopes

	keys map[string]bool // nil: all
}

// maxCaptures is how many captures a rule may have: one for each level, and one more.
// They are kept in a Grant without allocating.
const maxCaptures = 4

// captured are the texts of a rule's captures.
type captured [maxCaptures]string

// For returns what s may do: the grant of the first rule that matches, else the zero
// Grant. Its time is linear in the number of rules and in the length of the attributes.
func (p *Policy) For(s Subject) Grant {
	var few [16][]string // no allocation for that many
	values := few[:0]
	for _, name := range p.attributes {
		values = append(values, s.Attribute(name))
	}
	for _, r := range p.rules {
		if g, ok := r.match(values); ok {
			return g
		}
	}
	return Grant{}
}

func (r *rule) match(values [][]string) (Grant, bool) {
	g := Grant{rule: r}
	for i := range r.identity {
		if m := &r.identity[i]; !m.match(values[m.attribute], &g.captured) {
			return Grant{}, false
		}
	}
	if t := r.resolve; t != nil {
		g.task = secret.Scope{Org: t.org.text(&g.captured), Domain: t.domain.text(&g.captured), Project: t.project.text(&g.captured)}
		if g.task.Validate() != nil { // a capture is a name, but with the text around it may be none
			return Grant{}, false
		}
	}
	return g, true
}

// match reports whether one of values matches. If several do and capture different texts,
// none does: which scope the identity is bound to must not depend on their order.
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

// A Grant is what one identity may do. The zero Grant allows nothing. Several goroutines
// may use it.
type Grant struct {
	rule     *rule
	captured captured
	task     secret.Scope
}

var everything = &rule{name: "everything", all: true}

// Everything returns the grant of everyone where no policy is asked for, as when one
// starts to develop. Its Rule is "everything".
func Everything() Grant { return Grant{rule: everything} }

// Rule returns the name of the rule that decided, for the audit log; "" if none did.
func (g Grant) Rule() string {
	if g.rule == nil {
		return ""
	}
	return g.rule.name
}

// May reports whether v is allowed at exactly the scope at: for Manage and List, where a
// secret is stored; for Resolve, as a task of that scope. At a scope that is not valid
// nothing is.
func (g Grant) May(v Verb, at secret.Scope) bool {
	if g.rule == nil || at.Validate() != nil {
		return false
	}
	switch v {
	case Resolve:
		return g.rule.all || g.task == at // a task that there is not is at no valid scope
	case Manage, List:
		if g.rule.all {
			return true
		}
		for i := range g.rule.scopes[v] {
			s := &g.rule.scopes[v][i]
			if s.org.match(at.Org, &g.captured) && s.domain.match(at.Domain, &g.captured) && s.project.match(at.Project, &g.captured) {
				return true
			}
		}
	}
	return false
}

// MayAny reports whether v is allowed at any scope that f selects, so that a list of what
// the identity may not see at all is denied rather than empty. Which of what is listed
// may be told is for May to say.
func (g Grant) MayAny(v Verb, f store.Filter) bool {
	probe := secret.Scope(f)
	if probe.Org == "" {
		probe.Org = secret.DefaultOrg // any would do: that it is none is no mistake here
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

// Bind returns the scope of the task that the identity resolves as. asked is what the
// request says of it, which decides nothing: it is compared, so that a task which
// believes to be in another scope gets an error and not that scope's secrets. A zero
// asked says nothing, and an empty Org leaves the org open.
//
// The error wraps [secret.ErrDenied] if the identity may not resolve, or as another
// scope. The grant of [Everything] is bound to no scope: there asked is returned, or
// [secret.DefaultOrg]'s where it says nothing, or what is wrong with it
// ([secret.ErrInvalid]).
func (g Grant) Bind(asked secret.Scope) (secret.Scope, error) {
	switch {
	case g.rule != nil && g.rule.all:
		if asked.Org == "" {
			asked.Org = secret.DefaultOrg
		}
		if err := asked.Validate(); err != nil {
			return secret.Scope{}, err
		}
		return asked, nil
	case g.rule == nil || g.rule.resolve == nil:
		return secret.Scope{}, secret.WithHint(fmt.Errorf("%w: this identity may not resolve secrets", secret.ErrDenied),
			"the policy needs a rule with resolve that matches it first")
	case asked == secret.Scope{}:
		return g.task, nil
	}
	if asked.Org == "" {
		asked.Org = g.task.Org
	}
	if asked != g.task {
		return secret.Scope{}, secret.WithHint(
			fmt.Errorf("%w: this identity resolves as a task of %s and of no other scope", secret.ErrDenied, g.task),
			"leave the scope out of the request, or ask as%s", g.task.Flags())
	}
	return g.task, nil
}

// MayResolve reports whether the secret called key is among those that the identity may
// resolve, within the scope that Bind returns.
func (g Grant) MayResolve(key string) bool {
	switch {
	case g.rule == nil || secret.ValidKey(key) != nil:
		return false
	case g.rule.all:
		return true
	case g.rule.resolve == nil:
		return false
	}
	return g.rule.resolve.keys == nil || g.rule.resolve.keys[key]
}

// A File is a policy file that is kept current. Current is the policy to decide by; after
// a change that cannot be read or parsed it is the one from before, and Err says why.
type File = watch.Watched[*Policy]

// Open reads the policy file at path and follows its changes until ctx ends, as
// [watch.Load] does. It fails if the file cannot be read or is no policy; later mistakes
// go to log and to the File's Err.
func Open(ctx context.Context, path string, log hclog.Logger) (*File, error) {
	return watch.Load(ctx, path, Parse, log)
}
